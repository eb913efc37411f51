// Coze's own client for node against the door: streams, some of them cut upstream, a poll, a refusal, tool outputs, a workflow; what it saw, as JSON.
const [packageUrl, baseURL, question, cuts] = process.argv.slice(2);
const { CozeAPI } = await import(packageUrl);

const coze = new CozeAPI({ token: "pat_x", baseURL });
const ask = (content) => ({
  bot_id: "7561209983316475943",
  user_id: "u",
  additional_messages: [{ role: "user", content, content_type: "text" }],
});

async function read(stream) {
  const events = [];
  const answers = new Map();
  let last = null;
  for await (const part of stream) {
    events.push(part.event);
    if (part.event === "conversation.message.delta" && part.data.content) {
      answers.set(part.data.id, (answers.get(part.data.id) ?? "") + part.data.content);
    }
    if (part.event !== "done") last = part.data;
  }
  return { events, text: [...answers.values()].join("\n\n"), last };
}

const whole = await read(coze.chat.stream(ask(question)));
const cut = await Promise.all(JSON.parse(cuts).map((message) => read(coze.chat.stream(ask(message)))));
const poll = await coze.chat.createAndPoll(ask(question));
const refused = await read(coze.chat.stream(ask("/fault code:4016 times:9 x")));

const waits = await read(coze.chat.stream(ask("/fault action 开灯")));
const calls = waits.last.required_action.submit_tool_outputs.tool_calls;
const outputs = await read(
  coze.chat.submitToolOutputs({
    conversation_id: waits.last.conversation_id,
    chat_id: waits.last.id,
    tool_outputs: calls.map((call) => ({ tool_call_id: call.id, output: "ok" })),
    stream: true,
  }),
);

async function run(stream) {
  const events = [];
  let text = "";
  let last = null;
  for await (const part of stream) {
    events.push(part.event);
    if (part.event === "Message") text += part.data.content;
    last = part.data;
  }
  return { events, text, last };
}

const stopped = await run(coze.workflows.runs.stream({ workflow_id: "7561", parameters: { input: "/fault action x" } }));
const resumed = await run(
  await coze.workflows.runs.resume({
    workflow_id: "7561",
    event_id: stopped.last.interrupt_data.event_id,
    resume_data: "杭州",
    interrupt_type: stopped.last.interrupt_data.type,
  }),
);

console.log(
  JSON.stringify({
    whole,
    cut,
    status: poll.chat.status,
    polled: poll.messages.filter((message) => message.type === "answer").map((message) => message.content),
    refused: refused.last.code,
    waits: waits.events,
    outputs: outputs.events,
    stopped,
    resumed,
  }),
);
