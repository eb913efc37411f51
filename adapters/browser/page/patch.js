/**
 * Changes elements into others that were rendered anew. Equal parts stay, and so do a link that is being pressed, a
 * selection, the focus, and a picture that somebody opened.
 */

/**
 * Finds where the blocks of a text that has grown differ from before. Only the last block can have grown, and in it only
 * its own last block.
 * @param {import("./markdown.js").Block[]} old
 * @param {import("./markdown.js").Block[]} fresh
 * @returns {{path: number[], from: number}} the indexes of the elements on the way there, and the first token to render
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

const MANY = 50; // changes at once

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

/** The element that holds a block's children. */
const holder = (element) => (element.matches(".table-frame") ? element.firstElementChild : element);

/**
 * Makes the children of `parent` behind `last` (null: from the first one on) like those of `fresh` up to `freshEnd`, which
 * is used up. Those from `end` on are right already.
 * @returns the last one that was made; what is left between it and `end` is older
 */
export function patch(parent, last, fresh, end = null, freshEnd = null) {
  let node = fresh.firstChild;
  for (let old = after(parent, last); node !== freshEnd && old !== end; old = after(parent, last)) {
    const next = node.nextSibling;
    last = become(old, node);
    node = next;
  }
  if (node === freshEnd) return last;
  const more = document.createDocumentFragment(); // added at once, because a block with `dir=auto` reads all its words again at each change
  for (let next; node !== freshEnd; node = next) {
    next = node.nextSibling;
    more.append(node);
  }
  const { lastChild } = more;
  parent.insertBefore(more, end);
  return lastChild;
}

/** Removes the children of `parent` behind `last`, up to `end`. */
export function cutAfter(parent, last, end = null) {
  const directed = parent.closest("[dir=auto]");
  let cut = 0;
  for (let next; (next = after(parent, last)) !== end; cut++) {
    if (cut === MANY && directed) directed.removeAttribute("dir"); // with it, the browser would read all its words again for each removal
    next.remove();
  }
  if (cut > MANY && directed) directed.dir = "auto";
}

const after = (parent, last) => (last ? last.nextSibling : parent.firstChild);

/** @returns the one of the two that is in the page now */
function become(old, fresh) {
  if (old.isEqualNode(fresh)) return old;
  if (old.nodeName !== fresh.nodeName) return replace(old, fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (fresh.data.startsWith(old.data)) old.appendData(fresh.data.slice(old.data.length));
    else old.data = fresh.data;
    return old;
  }
  // Buttons of the page's own, which may just say "copied", and a picture that somebody opened and has the focus on.
  if (old.matches("button[data-t]") || (old.nodeName === "IMG" && old.src === fresh.src)) return old;
  if (isAnother(old, fresh)) return replace(old, fresh);
  for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  fresh.removeAttribute("dir");
  const [end, freshEnd] = sameEnd(old, fresh);
  cutAfter(old, patch(old, null, fresh, end, freshEnd), end);
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

/** The kind of the page's frame that an element is; a list's text is in no frame. */
const frameOf = ({ className }) => /^(?:code|table)-/.exec(className)?.input;

/** Something may have come to stand before what is there: @returns where what both end in begins, in each of the two */
function sameEnd(old, fresh) {
  let [end, freshEnd] = [null, null];
  let [last, freshLast] = [old.lastChild, fresh.lastChild];
  while (last && freshLast && last.isEqualNode(freshLast)) {
    [end, freshEnd] = [last, freshLast];
    [last, freshLast] = [last.previousSibling, freshLast.previousSibling];
  }
  return [end, freshEnd];
}

function replace(old, fresh) {
  old.replaceWith(fresh);
  return fresh;
}
