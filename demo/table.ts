/** The demo's live view: a table redrawn in place on a terminal, a line now and then elsewhere. */

import { tableText } from '../common/cli/output.ts'

/** Devices shown; the rest are counted. */
const MAX_ROWS = 24

export interface View {
  elapsedMs: number
  published: number
  acked: number
  delivered: number
  /** Delivered since the last view, per second. */
  readingsPerSecond: number
  /** Records in the edge's log that the hub has not committed; null while the edge does not answer. */
  lagRecords: number | null
  latencyMs: { p50: number; p99: number }
  lastValues: [string, number][]
  /** `up` or `down` per process. */
  processes: { name: string; up: boolean; kills: number }[]
}

/** Draws views to `out`; returns the function that does. */
export function createTable(out: NodeJS.WriteStream): (view: View) => Promise<void> {
  let lines = 0
  return async view => {
    if (!out.isTTY) {
      out.write(`${summary(view)}\n`)
      return
    }
    const text = await render(view)
    out.write(`${lines > 0 ? `\x1b[${lines}F\x1b[J` : ''}${text}\n`)
    lines = text.split('\n').length
  }
}

function summary(view: View): string {
  const processes = view.processes.map(p => `${p.name} ${p.up ? 'up' : 'down'} (${p.kills} kills)`).join(', ')
  return (
    `${(view.elapsedMs / 1000).toFixed(0)} s: ${view.published} published, ${view.acked} acked, ` +
    `${view.delivered} delivered (${view.readingsPerSecond}/s), lag ${view.lagRecords ?? '?'}, ` +
    `latency p50 ${view.latencyMs.p50} ms p99 ${view.latencyMs.p99} ms, ${processes}`
  )
}

async function render(view: View): Promise<string> {
  const more = view.lastValues.length - MAX_ROWS
  const table = await tableText(['sensor', 'last value'], view.lastValues.slice(0, MAX_ROWS))
  return `${table}\n${more > 0 ? `and ${more} more\n` : ''}\n${summary(view)}`
}
