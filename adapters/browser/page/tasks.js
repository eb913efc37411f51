/** Task lists: `- [ ] open` and `- [x] done` begin with a box instead of brackets. */

const MARK = /^\[([ xX])\](?:[ \t\n]+|$)/;

/** Adds the rules to markdown-it. The brackets are removed before an item's words are parsed: they could also be links. */
export function tasks(chains) {
  const find = ({ tokens }) => {
    for (let i = 2; i < tokens.length; i++) {
      if (tokens[i].type !== "inline" || tokens[i - 1].type !== "paragraph_open" || tokens[i - 2].type !== "list_item_open") continue;
      const mark = MARK.exec(tokens[i].content);
      if (!mark) continue;
      tokens[i].content = tokens[i].content.slice(mark[0].length);
      tokens[i - 1].meta = { ...tokens[i - 1].meta, task: mark[1] === " " ? "open" : "done" };
    }
  };
  for (const chain of chains) chain.ruler.before("inline", "tasks", find);
}

/** The box of a paragraph that begins a task. */
export const taskBox = ({ task }) => (task ? `<span class="task">${task === "done" ? "☑" : "☐"}</span> ` : "");
