/** The dialogue that asks whether to delete the conversation, and deletes it. */
import { sentence } from "./api.js";

/**
 * @param {object} parts the button that asks, the dialogue, its two buttons, and the place for an error
 * @param {() => Promise<void>} remove rejects with a `GatewayError` when it was not deleted
 */
export function addDeletion({ opener, dialog, yes, no, trouble }, remove) {
  opener.addEventListener("click", () => {
    trouble.hidden = true;
    dialog.showModal();
    no.focus(); // Enter must not delete
  });
  no.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", ({ target }) => { if (target === dialog) dialog.close(); });
  yes.addEventListener("click", async () => {
    yes.disabled = true;
    try {
      await remove();
      dialog.close();
    } catch (error) {
      trouble.replaceChildren(sentence(error));
      trouble.hidden = false;
    } finally {
      yes.disabled = false;
    }
  });
}
