// Coze's own client for node against a simulated Coze: one stream, one poll, one refusal; what it saw, as JSON.
const [packageUrl, baseURL, question] = process.argv.slice(2);
const { CozeAPI } = await import(packageUrl);

const coze = new CozeAPI({ token: "pat_x", baseURL });
const ask = (content) => ({
  bot_id: "7561209983316475943",
  user_id: "u",
  additional_messages: [{ role: "user", content, content_type: "text" }],
});

const events = [];
let streamed = "";
for await (const part of coze.chat.stream(ask(question))) {
  events.push(part.event);
  if (part.event === "conversation.message.delta") streamed += part.data.content;
}

const poll = await coze.chat.createAndPoll(ask(question));

let refused = null;
for await (const part of coze.chat.stream(ask("/fault code:4016 x"))) {
  // This client hands a JSON body of an error on as an event.
  refused = part.data.code;
}

let ran = "";
for await (const part of coze.workflows.runs.stream({ workflow_id: "75", parameters: { input: question } })) {
  if (part.event === "Message") ran += part.data.content;
}

console.log(
  JSON.stringify({
    ran,
    events,
    streamed,
    status: poll.chat.status,
    polled: poll.messages.filter((message) => message.type === "answer").map((message) => message.content),
    refused,
  }),
);
