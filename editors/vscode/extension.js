// Starts `lbdsl lsp` when a recipe is opened, and stops it with the window. The server does everything else.

const vscode = require("vscode");
const { LanguageClient, TransportKind } = require("vscode-languageclient/node");

let client;

async function start() {
  const settings = vscode.workspace.getConfiguration("lbdsl");
  const server = { command: settings.get("command"), args: ["lsp"], transport: TransportKind.stdio };
  const initializationOptions = {};
  for (const name of ["model", "docs"]) {
    if (settings.get(name)) initializationOptions[name] = settings.get(name);
  }
  client = new LanguageClient("lbdsl", "lbdsl", server, {
    documentSelector: [{ language: "lbr" }],
    initializationOptions,
  });
  try {
    await client.start();
  } catch (problem) {
    vscode.window.showErrorMessage(
      `lbdsl: \`${server.command} lsp\` does not start: ${problem.message}. Install it with pip install ".[editor]" in a checkout of lbdsl, ` +
        "or set lbdsl.command.",
    );
  }
}

async function stop() {
  const running = client;
  client = undefined;
  if (running && running.isRunning()) await running.stop();
}

async function activate(context) {
  context.subscriptions.push(
    vscode.workspace.onDidChangeConfiguration(async (event) => {
      if (event.affectsConfiguration("lbdsl")) {
        await stop();
        await start();
      }
    }),
  );
  await start();
}

module.exports = { activate, deactivate: stop };
