/** The field in which a question is written. */

const MOST_LINES = 8;
const COMPOSING = 229; // the key code of a key that belongs to an input method

/** Makes the field as high as its text, where the browser doesn't do that by itself. */
export function fitToText(field) {
  if (CSS.supports("field-sizing", "content")) return;
  field.rows = 1; // so that the text is measured, and not the field
  const { lineHeight, paddingTop, paddingBottom } = getComputedStyle(field);
  const height = field.scrollHeight - parseFloat(paddingTop) - parseFloat(paddingBottom);
  field.rows = Math.min(Math.max(Math.round(height / parseFloat(lineHeight)), 1), MOST_LINES);
}

/** Replaces the field's text by `text`. An undo brings the former text back. */
export function replaceText(field, text) {
  field.focus();
  field.select();
  if (!document.execCommand("insertText", false, text)) field.value = text;
  fitToText(field);
}

/** Enter sends the form; Shift and Enter begin a new line. */
export function sendOnEnter(field, form) {
  field.addEventListener("keydown", (event) => {
    // Safari ends a composition before it reports the Enter that ended it: only the key code tells what it was.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== COMPOSING) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}
