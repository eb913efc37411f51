/**
 * Makes elements like others that were rendered anew. What is the same already stays: with it a link that is being
 * pressed, a selection, the focus, and a picture that somebody opened.
 */

/**
 * Where the blocks of a text that has grown begin to differ from what they were. Only the last of them can have grown,
 * and in it again the last one.
 * @param {import("./markdown.js").Block[]} old
 * @param {import("./markdown.js").Block[]} fresh
 * @returns {{path: number[], from: number}} the places of the elements on the way there, and the first token to render
 */
export function difference(old, fresh) {
  const path = [];
  for (;;) {
    const place = firstDifference(old, fresh);
    const [was, is] = [old[place], fresh[place]];
    path.push(place);
    const goesOn = place === old.length - 1 && was.inner?.length && is?.inner?.length && was.kind === is.kind;
    if (!goesOn) return { path, from: is?.from ?? 0 };
    [old, fresh] = [was.inner, is.inner];
  }
}

function firstDifference(old, fresh) {
  const most = Math.min(old.length, fresh.length) - 1;
  let place = 0;
  while (place < most && isSame(old[place], fresh[place])) place++;
  return place;
}

const isSame = (one, other) => one.text === other.text && one.tight === other.tight && one.kind === other.kind;

/** Puts `fresh` where `difference` has found that it belongs, among the children of `parent` behind `before`. */
export function patchAt(parent, before, { path: [place, ...path] }, fresh) {
  const begin = before ? [...parent.children].indexOf(before) + 1 : 0;
  if (!path.length) {
    cutAfter(parent, patch(parent, place ? parent.children[begin + place - 1] : before, fresh));
    return;
  }
  const grown = parent.children[begin + place];
  const first = fresh.firstElementChild;
  first.remove();
  patchAt(holder(grown), null, { path }, holder(first));
  cutAfter(parent, patch(parent, grown, fresh));
}

/** The element that a block's own children are in. */
const holder = (element) => (element.matches(".table-frame") ? element.firstElementChild : element);

/**
 * Makes the children of `parent` behind `last` (null: from the first one on) like those of `fresh`, which is used up.
 * Those from `end` on are right already. @returns the last one that was made; what is left between it and `end` is older
 */
export function patch(parent, last, fresh, end = null) {
  for (const node of [...fresh.childNodes]) {
    const old = after(parent, last);
    last = old === end ? parent.insertBefore(node, end) : become(old, node);
  }
  return last;
}

/** Removes the children of `parent` behind `last`, up to `end`. */
export function cutAfter(parent, last, end = null) {
  for (let next; (next = after(parent, last)) !== end; ) next.remove();
}

const after = (parent, last) => (last ? last.nextSibling : parent.firstChild);

/** @returns the one of the two that stands there now */
function become(old, fresh) {
  if (old.isEqualNode(fresh)) return old;
  if (old.nodeName !== fresh.nodeName) return replace(old, fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (fresh.data.startsWith(old.data)) old.appendData(fresh.data.slice(old.data.length));
    else old.data = fresh.data;
    return old;
  }
  // The page's own, which may just say "copied", and a picture that somebody opened and is at.
  if (old.matches("button[data-t]") || (old.nodeName === "IMG" && old.src === fresh.src)) return old;
  if (isAnother(old, fresh)) return replace(old, fresh);
  for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const end = sameEnd(old, fresh);
  cutAfter(old, patch(old, null, fresh, end), end);
  return old;
}

/** Whether an element of the same name is for something else: it may have listeners, or somebody may be about to press it. */
function isAnother(old, fresh) {
  switch (old.nodeName) {
    case "A": return old.href !== fresh.href;
    case "BUTTON": case "IMG": return true;
    case "SPAN": return old.className !== fresh.className;
    case "DIV": return frameOf(old) !== frameOf(fresh);
    default: return false;
  }
}

/** Which of the page's frames an element is; a list's text is in none. */
const frameOf = ({ className }) => /^(?:code|table)-/.exec(className)?.input;

/** Something may have come to stand before what is there: takes from `fresh` what both end in. @returns where it begins */
function sameEnd(old, fresh) {
  let end = null;
  let last = old.lastChild;
  while (last && fresh.lastChild && last.isEqualNode(fresh.lastChild)) {
    fresh.lastChild.remove();
    end = last;
    last = last.previousSibling;
  }
  return end;
}

function replace(old, fresh) {
  old.replaceWith(fresh);
  return fresh;
}
