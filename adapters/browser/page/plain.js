/**
 * Plain text in place of Markdown that is too large. Nobody writes blocks or lines with so many parts or levels, and they
 * would freeze the page. Each block is judged by itself, so that an answer that comes in pieces looks like the same
 * answer that comes at once.
 */

const TOKENS = 40_000; // of one block: a table of two thousand rows and six columns
const LEVELS = 60; // of one block: thirty lists in each other
const PARTS = 8_000; // of one paragraph or cell

/** Adds rules to both of markdown-it's chains: the one for blocks and the one for words. */
export function plain(markdown, blockChains, wordChains) {
  const blocks = (state) => { state.tokens = bounded(state); };
  for (const chain of blockChains) chain.ruler.after("block", "plain_blocks", blocks);
  for (const chain of wordChains) chain.ruler.push("plain_words", words);
  markdown.renderer.rules.plain = (tokens, index) => `<p class="plain">${markdown.utils.escapeHtml(tokens[index].content)}</p>\n`;
}

function bounded(state) {
  const tokens = [];
  let begin = 0;
  let deepest = 0;
  let lines;
  for (const [index, token] of state.tokens.entries()) {
    deepest = Math.max(deepest, token.level);
    if (token.level || token.nesting > 0) continue;
    if (index - begin < TOKENS && deepest <= LEVELS) for (let i = begin; i <= index; i++) tokens.push(state.tokens[i]);
    else {
      const { map } = state.tokens[begin];
      lines ??= state.src.split("\n");
      const one = new state.Token("plain", "p", 0);
      tokens.push(Object.assign(one, { map, block: true, content: lines.slice(...map).join("\n").trim() }));
    }
    begin = index + 1;
    deepest = 0;
  }
  return tokens;
}

function words(state) {
  for (const token of state.tokens) {
    if (!(token.children?.length > PARTS)) continue;
    const one = new state.Token("text", "", 0);
    one.content = token.content;
    token.children = [one];
  }
}
