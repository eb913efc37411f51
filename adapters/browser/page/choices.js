/** What the page offers to choose from: quick questions with their languages, and faults of the simulated Coze. */
export const QUICK = [
  ["zh", "你好，请介绍一下你自己"], ["zh", "用表格比较 SSE 和 WebSocket"],
  ["en", "What can you do?"], ["en", "Show me a streaming client in Python"],
  ["es", "¿Qué puedes hacer?"], ["es", "Explica qué es el streaming con un ejemplo"],
];

export const FAULTS = [
  ["", "fault_none"], ["drop-after:8", "fault_drop"], ["stall-after:8", "fault_stall"], ["status:503 times:2", "fault_busy"],
  ["failed", "fault_failed"], ["rewrite", "fault_rewrite"], ["rate:5", "fault_slow"], ["rate:400", "fault_fast"],
  ["reasoning", "fault_reasoning"], ["tool", "fault_tool"], ["action", "fault_action"], ["multi", "fault_multi"],
  ["audio", "fault_audio"], ["hostile", "fault_hostile"],
];
