/** What the user thinks of an answer: two buttons, of which one may be pressed. */
import { iconButton } from "./dom.js";

const UP = "M7 11v9H4v-9zm0 0 4-8c2 0 3 1 3 3l-1 4h6l-2 10H7";
const DOWN = "M7 13V4H4v9zm0 0 4 8c2 0 3-1 3-3l-1-4h6L17 4H7";

/**
 * @param {{turnId: string, opinion?: string}} view the turn; its `opinion` follows what the gateway has
 * @param {(turnId: string, feedback: string) => Promise<boolean>} give resolves with whether the gateway has taken it
 * @returns {HTMLButtonElement[]}
 */
export function opinionButtons(view, give) {
  const pressed = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.kind === view.opinion));
  };
  const press = async (kind) => {
    const before = view.opinion;
    view.opinion = before === kind ? undefined : kind;
    pressed();
    if (await give(view.turnId, view.opinion ?? "none")) return;
    view.opinion = before;
    pressed();
  };
  const buttons = [["like", UP], ["unlike", DOWN]].map(([kind, lines]) => (
    iconButton(`feedback_${kind}`, lines, { class: "quiet-button opinion", "data-kind": kind, onclick: () => press(kind) })));
  pressed();
  return buttons;
}
