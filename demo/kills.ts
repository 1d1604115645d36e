/** `demo --kill`: processes end by kill -9 in mid-run and are started again. */

import { setTimeout as sleep } from 'node:timers/promises'
import type { TributaryClient } from '../common/client.ts'
import { isTributaryError } from '../common/errors.ts'
import type { Child } from './child.ts'
import type { Ledger } from './ledger.ts'
import type { Stage } from './stage.ts'
import { TOPIC } from './stage.ts'

/** Who is killed: of several nodes `hub` is the one that leads the most written partition, or the controller. */
type Victim = 'edge' | 'hub' | 'controller'

/** Progress at which processes are killed. */
const KILLS: readonly { at: number; victims: readonly Victim[] }[] = [
  { at: 0.1, victims: ['edge'] },
  { at: 0.25, victims: ['hub'] },
  { at: 0.4, victims: ['hub', 'edge'] },
  { at: 0.6, victims: ['controller'] },
  { at: 0.8, victims: ['hub', 'edge'] },
]
/** How long they stay down; of a cluster long enough for others to take over. */
const DOWN_MS = 500
const DOWN_IN_CLUSTER_MS = 2_000
/** Without CSV files and --seconds, progress is measured against this. */
const DEFAULT_SPAN_MS = 30_000
const RETRY_MS = 100

export interface KillRun {
  stage: Stage
  client: TributaryClient
  ledger: Ledger
  /** Readings to come; null where that isn't known. */
  total: number | null
  seconds: number | null
  signal: AbortSignal
}

/** Resolves after the last kill's victims are back, or at `signal`. */
export async function killInRun(run: KillRun): Promise<void> {
  const { stage, signal } = run
  const progress = progressOf(run)
  for (const { at, victims } of KILLS) {
    await until(() => progress() >= at, signal)
    if (signal.aborted) return
    const children = new Set<Child>()
    for (const victim of victims) children.add(await childOf(run, victim))
    await Promise.all([...children].map(child => child.kill()))
    for (const { name } of children) stage.kills.set(name, (stage.kills.get(name) ?? 0) + 1)
    await sleep(stage.hubs.length > 1 ? DOWN_IN_CLUSTER_MS : DOWN_MS)
    await Promise.all([...children].map(child => child.start()))
  }
}

function progressOf({ ledger, total, seconds }: KillRun): () => number {
  const startedMs = performance.now()
  const spanMs = seconds === null ? DEFAULT_SPAN_MS : seconds * 1000
  return () =>
    Math.max(
      total === null ? 0 : ledger.ackedCount() / total,
      total === null || seconds !== null ? (performance.now() - startedMs) / spanMs : 0,
    )
}

async function childOf(run: KillRun, victim: Victim): Promise<Child> {
  const { hubs, edge } = run.stage
  const [first] = hubs
  if (victim === 'edge' || first === undefined) return edge
  if (hubs.length === 1) return first
  const nodeId = victim === 'hub' ? await busiestLeader(run) : await controller(run)
  return hubs[nodeId - 1] ?? first
}

async function busiestLeader({ client, signal }: KillRun): Promise<number> {
  return untilKnown(signal, async () => {
    const { partitions } = await client.topics.describe(TOPIC)
    const busiest = partitions.reduce((most, one) => (one.endOffset > most.endOffset ? one : most))
    return (await client.cluster.placement(TOPIC))[busiest.partition]?.leader ?? null
  })
}

async function controller({ client, signal }: KillRun): Promise<number> {
  return untilKnown(signal, async () => (await client.cluster.status()).controllerId)
}

/** Node 1 where nobody could say before the end. */
async function untilKnown(signal: AbortSignal, ask: () => Promise<number | null>): Promise<number> {
  while (!signal.aborted) {
    try {
      const known = await ask()
      if (known !== null) return known
    } catch (error) {
      if (!isTributaryError(error) || !error.retriable) throw error
    }
    await sleep(RETRY_MS)
  }
  return 1
}

/** Resolves when the condition holds, or at `signal`. */
export async function until(condition: () => boolean, signal: AbortSignal): Promise<void> {
  while (!condition() && !signal.aborted) await sleep(20)
}
