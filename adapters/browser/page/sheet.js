/**
 * The panel's place: beside the conversation on a wide screen; on a narrow one a sheet above it, a modal dialogue, so that
 * neither the focus nor a screen reader gets behind it, and Escape and a click beside it close it.
 */
export function addSheet({ sheet, panel, place, opener, closer, isNarrow }) {
  opener.addEventListener("click", () => {
    sheet.append(panel);
    sheet.showModal();
    opener.setAttribute("aria-expanded", "true");
    closer.focus();
  });
  closer.addEventListener("click", () => sheet.close());
  sheet.addEventListener("click", ({ target }) => { if (target === sheet) sheet.close(); });
  sheet.addEventListener("close", () => {
    place.append(panel);
    opener.setAttribute("aria-expanded", "false");
  });
  isNarrow.addEventListener("change", () => { if (!isNarrow.matches && sheet.open) sheet.close(); });
}
