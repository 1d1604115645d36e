/** An edge's backlog as its own /status tells it. */

import { setTimeout as sleep } from 'node:timers/promises'

const POLL_MS = 25
const ANSWER_TIMEOUT_MS = 1_000

/** Records in the edge's log that the hub has not committed; null while the edge does not answer. */
export async function edgeLagRecords(edgeUrl: string): Promise<number | null> {
  try {
    const response = await fetch(`${edgeUrl}/status`, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) })
    const status: unknown = await response.json()
    if (typeof status !== 'object' || status === null || !('lagRecords' in status)) return null
    return typeof status.lagRecords === 'number' ? status.lagRecords : null
  } catch {
    return null
  }
}

/** Resolves when the hub has committed all that the edge took, or at `signal`. */
export async function edgeDrained(edgeUrl: string, signal: AbortSignal): Promise<void> {
  while (!signal.aborted && (await edgeLagRecords(edgeUrl)) !== 0) await sleep(POLL_MS)
}
