/** What operators do to a cluster under load, of which nobody may notice anything: rolling restarts, growing, draining. */

import type { TributaryClient } from '../../common/client.ts'
import { messageOf } from '../../common/errors.ts'
import type { Child } from '../../demo/child.ts'
import { allInSync, untilTrue } from '../hub-nodes.ts'
import type { ClusterStage } from './cluster-stage.ts'

const STOP_TIMEOUT_MS = 30_000

/** Stops each node in order and starts it again. */
export async function restartAll({ hubs, client }: ClusterStage): Promise<string[]> {
  for (const hub of hubs) {
    await hub.stop(STOP_TIMEOUT_MS)
    await hub.start()
    await allInSync(client, hubs.length)
  }
  return ['rolling restart']
}

/** Brings the nodes after the first up, gives the first one's replicas to them, stops and removes it. */
export async function growAndDrain({ hubs, client }: ClusterStage): Promise<string[]> {
  const [first, ...others] = hubs
  if (first === undefined) return []
  for (const hub of others) await hub.start()
  await allInSync(client, hubs.length)
  const replicasOfFirst = async (): Promise<number> =>
    (await client.cluster.nodes()).find(node => node.nodeId === 1)?.replicas ?? 0
  const held = await replicasOfFirst()
  await client.cluster.drain(1)
  await untilTrue('node 1 drained', async () => (await replicasOfFirst()) === 0)
  await first.stop(STOP_TIMEOUT_MS)
  await untilTrue('node 1 removed', async () => {
    await client.cluster.remove(1)
    return true
  })
  await allInSync(client, others.length)
  return [`1 -> ${hubs.length} nodes, ${held} replicas drained off node 1, removed`]
}

/** A subscriber of a topic from its start on; it must neither fail nor get a record twice or out of its partition's order. */
export interface Watcher {
  /** Records so far. */
  count(): number
  /** What went wrong, none where all is well. */
  stop(): Promise<string[]>
}

/** The topic is made. */
export async function watchTopic(client: TributaryClient, topic: string): Promise<Watcher> {
  await client.topics.create({ name: topic })
  const stop = new AbortController()
  const problems: string[] = []
  const next = new Map<number, number>()
  let count = 0
  const reading = (async () => {
    for await (const { partition, offset } of client.consume(topic, {
      from: 'earliest',
      signal: stop.signal,
    })) {
      const expected = next.get(partition) ?? 0
      if (offset < expected) problems.push(`a subscriber got ${partition}/${offset} after ${expected - 1}`)
      next.set(partition, offset + 1)
      count++
    }
  })().catch((error: unknown) => {
    problems.push(`a subscriber was told: ${messageOf(error)}`)
  })
  return {
    count: () => count,
    stop: async () => {
      stop.abort()
      await reading
      return problems
    },
  }
}

/** Lines of a process's log that tell of an error. */
export function errorsOf(child: Child): string[] {
  return child
    .stderr()
    .split('\n')
    .filter(line => /"level":(50|60)/.test(line))
    .map(line => `${child.name} logged an error: ${line.slice(0, 300)}`)
}
