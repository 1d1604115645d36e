/** Several hub nodes as real processes, for the chaos runs and benchmarks. */

import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TributaryClient } from '../common/client.ts'
import { isTributaryError, messageOf } from '../common/errors.ts'
import type { Child } from '../demo/child.ts'
import { createChild, freePorts } from '../demo/child.ts'
import type { Gates } from './chaos/gate.ts'
import { openGates } from './chaos/gate.ts'

const READY_TIMEOUT_MS = 60_000
const SETTLE_TIMEOUT_MS = 60_000

export interface HubNodes {
  /** By node id, from 1. */
  hubs: readonly Child[]
  /** As clients and edges find them. */
  urls: readonly string[]
  /** In front of every listener; none where they were not asked for. */
  gates: Gates
  /** Folder of each node; its data directory is `data` below it. */
  folders: readonly string[]
}

export interface HubNodesOptions {
  /** All connections go through gates, which cost time of their own. */
  isGated: boolean
  /** Node 1 founds a cluster of one, which the others are told to join; else all found it together. */
  isGrown: boolean
}

/** Nothing is started yet; node ids go from 1. */
export async function createHubNodes(
  directory: string,
  script: string,
  nodes: number,
  { isGated, isGrown }: HubNodesOptions,
): Promise<HubNodes> {
  const ports = await freePorts(4 * nodes)
  const take = (group: number): number[] => ports.slice(group * nodes, (group + 1) * nodes)
  const [httpPorts, httpGates, peerPorts, peerGates] = [take(0), take(1), take(2), take(3)]
  const entrances = (from: readonly number[], to: readonly number[], isForPeers: boolean) =>
    from.map((port, at) => ({ nodeId: at + 1, port, targetPort: to[at] ?? 0, isForPeers }))
  const gates = await openGates(
    isGated ? [...entrances(peerGates, peerPorts, true), ...entrances(httpGates, httpPorts, false)] : [],
  )
  const [peerDoors, httpDoors] = isGated ? [peerGates, httpGates] : [peerPorts, httpPorts]
  const folders = httpPorts.map((_, at) => join(directory, `hub-${at + 1}`))
  const entries = peerDoors.map((port, at) => `${at + 1}@127.0.0.1:${port}`)
  const peersOf = (at: number): string =>
    (isGrown ? entries.filter((_, other) => other === 0 || other === at) : entries).join(',')
  const hubs = httpPorts.map((port, at) =>
    createChild({
      name: `hub ${at + 1}`,
      script,
      args: [
        'hub',
        ...['--node', String(at + 1), '--peers', peersOf(at), '--peer-listen', `127.0.0.1:${peerPorts[at]}`],
        ...['--http', `127.0.0.1:${port}`, '--advertised-http', `127.0.0.1:${httpDoors[at]}`],
        ...['--data', join(folders[at] ?? '', 'data'), '--log-level', 'warn'],
      ],
      readyUrl: `http://127.0.0.1:${port}/readyz`,
      readyTimeoutMs: READY_TIMEOUT_MS,
    }),
  )
  return { hubs, urls: httpDoors.map(port => `http://127.0.0.1:${port}`), gates, folders }
}

/** Resolves when all of so many nodes live and every replica is in sync; rejects after a minute. */
export async function allInSync(client: TributaryClient, nodes: number): Promise<void> {
  await untilTrue(`${nodes} nodes in sync`, async () => {
    const { activeNodes, underReplicated, leaderless, reassigning } = await client.cluster.status()
    return activeNodes === nodes && underReplicated + leaderless + reassigning === 0
  })
}

/** Asks until it is so, past what may pass; rejects after a minute with the last reason. */
export async function untilTrue(what: string, ask: () => Promise<boolean>): Promise<void> {
  const limitMs = performance.now() + SETTLE_TIMEOUT_MS
  let reason = 'it was not so yet'
  for (;;) {
    const isTrue = await ask().catch((error: unknown) => {
      if (!isTributaryError(error) || !error.retriable) throw error
      reason = messageOf(error)
      return false
    })
    if (isTrue) return
    if (performance.now() > limitMs) {
      throw new Error(`not within ${SETTLE_TIMEOUT_MS} ms: ${what} (${reason})`)
    }
    await sleep(100)
  }
}
