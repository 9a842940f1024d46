"""The manual's JavaScript bot, taken from the manual when a test asks for it, and run in node as it stands.

What the manual's class calls and does not define a user has to write: `OWN_PARTS` is such a part, in plain JavaScript.
Its addresses are fixed in its text, so the `axios` that it gets here knows which real address stands for which.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT

MANUAL = "trading-bot-execution-manual.md"
NODE_TIMEOUT_S = 60

AXIOS = """
const urls = JSON.parse(process.env.BOT_URLS);

async function call(settings, method, path, body) {
  const answer = await fetch((urls[settings.baseURL] || settings.baseURL) + path, {
    method,
    headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(settings.timeout || 30000),
  });
  const text = await answer.text();
  const response = { status: answer.status, data: text ? JSON.parse(text) : '' };
  if (answer.status >= 400) {
    const error = new Error(`Request failed with status code ${answer.status}`);
    error.response = response;
    throw error;
  }
  return response;
}

exports.create = (settings) => ({
  get: (path) => call(settings, 'GET', path),
  post: (path, body) => call(settings, 'POST', path, body),
});
"""

OWN_PARTS = """
const fs = require('fs');
const { CompleteTradingBot } = require('./manual.js');

const worth = { buy: 1, up: 1, hold: 0, sell: -1, down: -1 };

class Bot extends CompleteTradingBot {
  async makeTradingDecision(pair, signals, prediction) {
    const said = Object.values(signals);
    const technical = said.reduce((sum, s) => sum + worth[s.signal] * s.confidence, 0) / said.length;
    const ml = worth[prediction.prediction] * prediction.confidence;
    const combined = 0.6 * technical + 0.4 * ml;
    const action = combined > 0.3 ? 'buy' : combined < -0.3 ? 'sell' : 'hold';
    return { action, confidence: Math.min(1, Math.abs(combined)), reasoning: { technical, ml, combined } };
  }

  async updatePortfolioState() {
    this.tradingState.portfolio = await this.getPortfolio();
    this.tradingState.positions = new Map(this.tradingState.portfolio.positions.map((p) => [p.id, p]));
  }

  async performRiskManagement() {
    const summary = this.tradingState.portfolio.summary;
    if (summary.dayPnLPercent < -5) await this.stopTradingBot();
  }

  async stopTradingBot() {
    clearInterval(this.tradingInterval);
    this.tradingState.isActive = false;
  }
}

async function main() {
  const seen = {};
  const bot = new Bot();
  seen.initialization = await bot.initializeTradingBot();
  seen.active = bot.getTradingStatus().isActive;
  for (let cycle = 0; cycle < Number(process.env.BOT_CYCLES); cycle += 1) await bot.executeTradingCycle();
  seen.status = bot.getTradingStatus();
  seen.portfolio = bot.tradingState.portfolio;
  await bot.stopTradingBot();
  fs.writeFileSync('seen.json', JSON.stringify(seen));
}

main().catch((error) => { console.error(error); process.exitCode = 1; });
"""


def manual_text() -> str:
    """The manual: TBX_MANUAL, else where it lies beside the checkout; skips the test where there is none."""
    named = os.environ.get("TBX_MANUAL")
    path = Path(named) if named else ROOT.parent / "shared" / "spec" / MANUAL
    if not path.is_file():
        pytest.skip(f"no manual at {path}; set TBX_MANUAL to the file")
    return path.read_text()


def bot_source() -> str:
    """The manual's JavaScript that defines the bot, unchanged."""
    blocks = re.findall(r"^```javascript\n(.*?)^```", manual_text(), re.MULTILINE | re.DOTALL)
    found = [block for block in blocks if "class CompleteTradingBot" in block]
    assert len(found) == 1, f"the manual defines CompleteTradingBot {len(found)} times"
    return found[0]


def run_bot(folder: Path, urls: Mapping[str, str], cycles: int = 1) -> tuple[dict[str, Any], str]:
    """Run the bot for some cycles; what it saw, and what it printed. `urls`: the manual's address -> the real one."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on PATH: the manual's bot is JavaScript")
    source = bot_source()
    axios = folder / "node_modules" / "axios"
    axios.mkdir(parents=True, exist_ok=True)
    (axios / "index.js").write_text(AXIOS)
    (folder / "manual.js").write_text(f"{source}\nmodule.exports = {{ CompleteTradingBot }};\n")
    (folder / "main.js").write_text(OWN_PARTS)
    seen = folder / "seen.json"
    seen.unlink(missing_ok=True)
    environment = {"PATH": os.environ["PATH"], "BOT_URLS": json.dumps(dict(urls)), "BOT_CYCLES": str(cycles)}
    done = subprocess.run(
        [node, "main.js"], cwd=folder, env=environment, capture_output=True, text=True, timeout=NODE_TIMEOUT_S
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0 and seen.is_file(), printed
    return json.loads(seen.read_text()), printed
