/**
 * Makes elements like others that were rendered anew. What is the same already stays: with it a link that is being
 * pressed, a selection, the focus. Text only grows, so nodes are compared by their place.
 */

/**
 * Makes the children of `parent` behind `last` (all of them, if it is null) like those of `fresh`, which is used up.
 * @returns the last of them; what stands behind it is older
 */
export function patch(parent, last, fresh) {
  for (const node of [...fresh.childNodes]) {
    const old = after(parent, last);
    last = old ? become(old, node) : parent.appendChild(node);
  }
  return last;
}

/** Removes the children of `parent` behind `last`. */
export function cutAfter(parent, last) {
  for (let next; (next = after(parent, last)); ) next.remove();
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
  if (old.matches("button[data-t]")) return old; // the page's own, which may just say "copied"
  if (old.className !== fresh.className || old.matches("button, img")) return replace(old, fresh); // has listeners
  for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  cutAfter(old, patch(old, null, fresh));
  return old;
}

function replace(old, fresh) {
  old.replaceWith(fresh);
  return fresh;
}
