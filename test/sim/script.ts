import { KIB } from '../../common/limits.ts'
import { isPassing } from './checkers/admin.ts'
import { LeadersChecker } from './checkers/leaders.ts'
import { MetadataChecker } from './checkers/metadata.ts'
import { PartitionsChecker } from './checkers/partitions.ts'
import type { PeerFrameListeners } from './checkers/peer-frames.ts'
import { showPeerFrame } from './checkers/peer-frames.ts'
import { ReadersChecker } from './checkers/readers.ts'
import { ServedChecker } from './checkers/served.ts'
import { drain, readEverything, untilNodesAgree, untilReadersAreThere } from './ending.ts'
import { compareReplicas, judge, textOf } from './judge.ts'
import { startLoad } from './load.ts'
import { loseMinority } from './minority.ts'
import { Nemesis } from './nemesis.ts'
import type { Sim } from './sim.ts'
import { BRIEF_TOPIC, READ_TOPICS, SMALL_TOPIC } from './sim.ts'
import { LEAST_ACKS, LEAST_SIM_MS } from './summary.ts'

/** A seed's story: all starts, load and faults, then all is healed and must come to its end in bounded time, then all is judged. */

const START_MS = 30_000
/** The load goes on after all is healed: for so long at least, and until enough is acked. */
const HEALED_MS = 1_000
const ENOUGH_MS = 120_000

export async function play(sim: Sim): Promise<void> {
  const { world } = sim
  const served = new ServedChecker(sim.plan.nodes === 1)
  const readers = new ReadersChecker()
  const partitions = new PartitionsChecker(world)
  const metadata = new MetadataChecker(world, partitions)
  watch(sim, served, metadata, partitions)
  for (const node of sim.nodes) node.start()
  await sim.until('all nodes are up', () => sim.nodes.every(({ running }) => running !== null), START_MS)
  await createTopics(sim)
  for (const machine of [...sim.edges, ...sim.clients]) machine.start()
  addReaders(sim, readers)
  const load = startLoad(sim)
  const nemesis = new Nemesis(sim)
  await nemesis.run(world.nowMs() + sim.plan.safetyMs)
  world.say(() => 'the faults are over')
  await nemesis.heal()
  await loseMinority(sim, world.stream())
  await world.sleep(HEALED_MS)
  const isEnough = (): boolean => world.acks() >= LEAST_ACKS && world.nowMs() >= LEAST_SIM_MS
  await sim.until('enough is acked', isEnough, ENOUGH_MS)
  load.stop()
  await drain(sim)
  await untilNodesAgree(sim)
  checkAdmin(sim)
  // Records that nobody waits for an ack of may still come.
  served.over()
  const found = await readEverything(sim)
  await untilReadersAreThere(sim, readers, found)
  await judge(sim, found, served, readers, partitions)
  await compareReplicas(sim, found, metadata)
}

/** Checks what is said on the wire, as it is said. */
function watch(
  sim: Sim,
  served: ServedChecker,
  metadata: MetadataChecker,
  partitions: PartitionsChecker,
): void {
  const { world, network } = sim
  const leaders = new LeadersChecker(world)
  const listeners: PeerFrameListeners = {
    raft: message => metadata.message(message),
    fetch: (frame, { host }) => partitions.fetch(frame, nodeIdOf(host)),
    fetched: (frame, from) => {
      leaders.fetched(frame, from)
      partitions.fetched(frame, nodeIdOf(from.host))
    },
    outdated: () => world.count('append fenced'),
  }
  const guarded = (check: () => void): void => {
    try {
      check()
    } catch (error) {
      world.fail(error)
    }
  }
  network.onArrival = (data, pipe) => guarded(() => served.onArrival(data, pipe))
  network.onSend = (data, pipe) =>
    guarded(() => {
      served.onSend(data, pipe)
      showPeerFrame(data, pipe, listeners)
    })
}

/** Of a machine, or of its copy. */
function nodeIdOf(host: string): number {
  return Number.parseInt(host.slice(1), 10)
}

async function createTopics(sim: Sim): Promise<void> {
  const { partitions } = sim.plan
  const wanted = [
    { name: SMALL_TOPIC, partitions: 1, config: { maxRecordBytes: 1_024 } },
    ...READ_TOPICS.map(name => ({ name, partitions })),
    { name: BRIEF_TOPIC, partitions: 1, config: { segmentBytes: 64 * KIB, retentionBytes: 64 * KIB } },
  ]
  for (const request of wanted) {
    for (;;) {
      const from = sim.admin.mark()
      try {
        const topic = await sim.ask(({ topics }) => topics.create(request))
        if (topic !== null) {
          sim.admin.created(topic.topicId, topic.name, from)
          break
        }
      } catch (error) {
        if (!isPassing(error)) throw error
      }
      await sim.world.sleep(100)
    }
  }
}

function addReaders(sim: Sim, checker: ReadersChecker): void {
  for (const client of sim.clients) {
    for (const topic of [...READ_TOPICS, BRIEF_TOPIC]) {
      const name = `${client.host} ${topic}`
      client.addReader({
        name,
        topic,
        next: new Map(),
        // A reader of what is kept for so short a time may find that it is gone.
        onReset: topic === BRIEF_TOPIC ? 'earliest' : 'error',
        onRecord: ({ partition, offset, value }) => checker.record(name, partition, offset, textOf(value)),
        onError: (code, message) => {
          sim.world.count(`read ${code}`)
          if (code === 'not_available' || code === 'timeout') return
          sim.world.fail(new Error(`${name} could not read: ${code}: ${message}`))
        },
      })
    }
  }
}

/** What administrators were told is as they were told. */
function checkAdmin(sim: Sim): void {
  const ports = sim.controllerPorts()
  if (ports === null) throw new Error(`no node is the active controller; ${sim.describe()}`)
  sim.admin.check(ports)
}
