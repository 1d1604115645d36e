import { pino } from 'pino'
import { eachBatch } from '../../../common/batch.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import { utf8Text } from '../../../common/bytes.ts'
import { nodeCodec } from '../../../common/compression.ts'
import type { HubOverrides } from '../../../common/config-hub.ts'
import { defaultHubConfig } from '../../../common/config-hub.ts'
import type { Env } from '../../../common/env.ts'
import { openClusterEngine } from '../../../hub/engines/cluster/engine.ts'
import type { LaneKey, Topic } from '../../../hub/ports.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'

/** The cluster engine on a fake machine. */

/** Small, so that tests reach its limits. */
export const storage = {
  commitMs: 0,
  journalBytes: 1024 * 1024,
  reserveBytes: 64 * 1024,
  tailCacheBytes: 1024 * 1024,
}
const logger = pino({ level: 'silent' })
let seeds = 0

/** A machine without a network; each with a seed of its own. */
export function environment(disk = new FakeDisk({ rng: seededRng(++seeds) }), clock = new FakeClock()) {
  const net: Env['net'] = { dial: () => Promise.reject(new Error('no network here')) }
  return { disk, clock, rng: seededRng(++seeds), codec: nodeCodec(), net }
}

/** The engine in `/hub`, with small limits. */
export async function start(env = environment(), overrides: HubOverrides = {}) {
  const config = defaultHubConfig({
    data: '/hub',
    ...overrides,
    storage: { ...storage, ...overrides.storage },
  })
  const engine = await openClusterEngine(config, env, logger)
  return { env, engine, ...engine.ports }
}

export type Hub = Awaited<ReturnType<typeof start>>

/** The engine on what the disk holds after an orderly stop, kill -9 or a power cut. */
export async function restart(hub: Hub, how: 'close' | 'kill' | 'crash' = 'close'): Promise<Hub> {
  if (how === 'close') await hub.engine.close()
  const disk = how === 'close' ? hub.env.disk : hub.env.disk[how]()
  return start(environment(disk, hub.env.clock))
}

/** What an edge says of itself when it connects. */
export function hello(id: string, session = 0, fence = () => {}) {
  return { id, session, address: '10.0.0.1', software: 'test', nowMs: 1, isWanted: () => true, fence }
}

/** Connects, starts and binds an edge, and says where its lane is. */
export async function attach(
  hub: Hub,
  edgeId: string,
  topicName = 't',
  session = 0,
): Promise<{ topic: Topic; lane: LaneKey }> {
  const granted = await hub.fleet.connect(hello(edgeId, session))
  await hub.fleet.start(edgeId, granted.session)
  const request = { edgeId, topic: topicName, topicId: null, lane: 0, lanes: 1, partitionBy: 'edge' } as const
  const { topic, partition } = await hub.fleet.bindLane(request)
  return { topic, lane: { edgeId, topicId: topic.topicId, partition, lane: 0 } }
}

/** The values of all records of a topic, partition by partition. */
export async function values(hub: Hub, topicName: string): Promise<string[]> {
  const topic = hub.topics.byName(topicName)
  const found: string[] = []
  for (let partition = 0; partition < topic.partitions; partition++) {
    const { startOffset } = await hub.logs.bounds(topic.topicId, partition)
    for (let offset = startOffset; ; ) {
      const { batches, nextOffset } = await hub.logs.read(topic.topicId, partition, offset, 65_536)
      if (nextOffset === offset) break
      for (const { at, header } of eachBatch(batches)) {
        if (header.isControl) continue
        for (const { value } of decodePlain(batches, at)) found.push(utf8Text(value ?? new Uint8Array(0)))
      }
      offset = nextOffset
    }
  }
  return found
}
