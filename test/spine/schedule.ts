import { must } from '../../common/assert.ts'
import { KIB } from '../../common/limits.ts'
import { FakeDisk } from '../fake-disk.ts'
import { seededRng } from '../rng.ts'
import type { Life } from './book.ts'
import { checkAll } from './check.ts'
import type { EdgeDirectory, EdgeSettings } from './stage.ts'
import { PLENTY_BYTES, SMALL_TOPIC, Stage } from './stage.ts'

/** A random schedule: records and faults, then everything is healed and must drain, then all is counted. */

const DAY_MS = 86_400_000
/** Fake time in which everything must be drained after the last fault: records of a deleted topic gather for a minute. */
const DRAIN_MS = 200_000
/** In which an edge that is connected hears where its lanes are. */
const SETTLE_MS = 3_000
const DOOMED_TOPIC = 'doomed'

/** Faults that every edge and hub must stand without a copy, a gap or an alarm. */
const PLAIN = {
  'edge crash': 3,
  'edge kill': 1,
  'edge restart': 2,
  'hub crash': 3,
  'hub kill': 1,
  'hub restart': 2,
  'both crash': 2,
  cut: 3,
  'hub slow': 2,
  offline: 2,
} as const

/** Faults that show, in a few of the schedules each. */
const GRAVE = {
  'hub full': 3,
  'edge full': 2,
  'edge budget': 3,
  'hub rollback': 2,
  'hub replaced': 1,
  clone: 2,
  'edge rollback': 2,
  wipe: 1,
  'topic deleted': 2,
  'record too large': 3,
  'lanes changed': 3,
  'wall clock': 3,
} as const

type Plain = keyof typeof PLAIN
type Grave = keyof typeof GRAVE

/** What must have happened over a run of many schedules. */
export const FAULTS: readonly string[] = [
  ...Object.keys(PLAIN).filter(name => name !== 'cut'),
  ...Object.keys(GRAVE),
  'link cut-before',
  'link cut-after',
  'frames delayed',
  'rejected for space',
]

/** Runs one schedule; throws what it finds wrong. */
export async function runSchedule(seed: number): Promise<ReadonlyMap<string, number>> {
  const schedule = new Schedule(seed)
  await schedule.run()
  return schedule.stage.faults
}

interface EdgeCopy {
  disk: FakeDisk
  life: Life | null
  ends: ReadonlyMap<string, number>
}

class Schedule {
  readonly stage: Stage
  readonly #rng
  readonly #faults: [string, number][]
  #edgeCopy = new Map<EdgeDirectory, EdgeCopy>()
  #hubCopy: { disk: FakeDisk; isOther: boolean } | null = null
  #deleted = false

  constructor(seed: number) {
    this.#rng = seededRng(Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995)
    const rng = this.#rng
    this.stage = new Stage(seed, 1 + rng.below(3), () => this.#settings())
    const plain = Object.entries(PLAIN).filter(() => rng.float() < 0.6)
    const isGrave = rng.float() < 0.65
    const grave = Object.entries(GRAVE).filter(() => isGrave && rng.float() < 0.18)
    this.#faults = [...plain, ...grave]
    if (rng.float() < 0.6) this.stage.cutRate = [0.002, 0.01, 0.05][rng.below(3)] ?? 0
    if (rng.float() < 0.5) this.stage.delayRate = [0.01, 0.1][rng.below(2)] ?? 0
  }

  #settings(): EdgeSettings {
    const rng = this.#rng
    return {
      lanes: 1 + rng.below(2),
      keepAckedMs: [0, 0, 3_600_000, DAY_MS][rng.below(4)] ?? 0,
      budgetBytes: PLENTY_BYTES,
      windowBytes: ([1, 16, 256][rng.below(3)] ?? 64) * KIB,
      maxBatchBytes: [KIB, 8 * KIB, 64 * KIB][rng.below(3)] ?? KIB,
      compression: rng.float() < 0.5 ? 'zstd' : 'none',
      commitMs: rng.below(2) * 10,
    }
  }

  async run(): Promise<void> {
    const { stage } = this
    await stage.startHub()
    for (const directory of stage.directories) await stage.startEdge(directory)
    const steps = 6 + this.#rng.below(14)
    for (let step = 0; step < steps; step++) {
      await this.#offerSome()
      const fault = this.#pickFault()
      if (fault !== null) await this.#apply(fault)
      await this.#rest()
      if (this.#rng.float() < 0.3) this.#copySomething()
    }
    await this.#heal()
    await checkAll(stage)
  }

  #pickFault(): string | null {
    const rng = this.#rng
    const total = this.#faults.reduce((sum, [, weight]) => sum + weight, 0)
    let left = rng.float() * (total + 3)
    for (const [name, weight] of this.#faults) {
      left -= weight
      if (left < 0) return name
    }
    return null
  }

  async #rest(): Promise<void> {
    const rng = this.#rng
    const style = rng.below(4)
    if (style === 0) return
    if (style === 1) await this.stage.turns(1 + rng.below(30), 0)
    else if (style === 2) await this.stage.turns(5 + rng.below(60), 1 + rng.below(20))
    else await this.stage.turns(20 + rng.below(60), 20 + rng.below(150))
  }

  #someEdge(): EdgeDirectory {
    const { directories } = this.stage
    return must(directories[this.#rng.below(directories.length)], 'there is an edge')
  }

  async #offerSome(): Promise<void> {
    const rng = this.#rng
    for (const directory of this.stage.directories) {
      if (directory.running === null || rng.float() < 0.2) continue
      const large = rng.float() < 0.15
      for (let count = rng.below(large ? 8 : 16); count > 0; count--) {
        const topic = ['alpha', 'alpha', 'beta', DOOMED_TOPIC, SMALL_TOPIC][rng.below(5)] ?? 'alpha'
        const bytes = topic === SMALL_TOPIC ? rng.below(300) : large ? rng.below(9 * KIB) : rng.below(200)
        this.stage.offer(directory, topic, rng.below(directory.settings.lanes), bytes)
        if (rng.float() < 0.1) await this.stage.turn(0)
      }
    }
  }

  // --------------------------------------------------------------------------------------------- faults

  async #apply(name: string): Promise<void> {
    const { stage } = this
    const rng = this.#rng
    const edge = this.#someEdge()
    const handlers: Record<Plain | Grave, () => Promise<void> | void> = {
      'edge crash': () => this.#restartEdge(edge, 'crash'),
      'edge kill': () => this.#restartEdge(edge, 'kill'),
      'edge restart': () => this.#restartEdge(edge, 'stop'),
      'hub crash': () => this.#restartHub('crash'),
      'hub kill': () => this.#restartHub('kill'),
      'hub restart': () => this.#restartHub('stop'),
      'both crash': async () => {
        stage.endEdge(edge, true)
        stage.endHub(true)
        if (rng.float() < 0.5) await stage.startHub()
        await this.#restartEdge(edge, 'crash')
        if (stage.hub === null) await stage.startHub()
      },
      cut: () => {
        edge.running?.pair?.cut()
      },
      'hub slow': () => {
        stage.hubSyncMs = stage.hubSyncMs === 0 ? 1 + rng.below(400) : 0
      },
      offline: () => {
        edge.offline = !edge.offline
        edge.running?.pair?.cut()
      },
      'hub full': () => this.#hubFull(),
      'edge full': () => this.#edgeFull(edge),
      'edge budget': () => this.#edgeBudget(edge),
      'hub rollback': () => this.#hubRollback(),
      'hub replaced': () => this.#hubReplaced(),
      clone: () => this.#clone(edge),
      'edge rollback': () => this.#edgeRollback(edge),
      wipe: () => this.#wipe(edge),
      'topic deleted': () => this.#deleteTopic(edge),
      'record too large': () => this.#tooLarge(edge),
      'lanes changed': async () => {
        edge.settings.lanes = 1 + (edge.settings.lanes % 3)
        await this.#restartEdge(edge, rng.float() < 0.5 ? 'stop' : 'crash')
      },
      'wall clock': () => {
        const shift = (shiftMs: number): number =>
          shiftMs === 0 ? (rng.float() < 0.5 ? DAY_MS : -DAY_MS) : 0
        if (rng.float() < 0.5) edge.wallShiftMs = shift(edge.wallShiftMs)
        else stage.hubWallShiftMs = shift(stage.hubWallShiftMs)
      },
    }
    for (const [known, handler] of Object.entries(handlers)) {
      if (known !== name) continue
      stage.count(name)
      await handler()
    }
  }

  async #restartEdge(edge: EdgeDirectory, how: 'crash' | 'kill' | 'stop'): Promise<void> {
    const { stage } = this
    if (how === 'stop') await stage.stopEdge(edge)
    else if (edge.running !== null) stage.endEdge(edge, how === 'crash')
    if (this.#rng.float() < 0.3) await this.#rest()
    const ends = stage.book.ends(edge.life)
    await stage.startEdge(edge)
    stage.checkEnds(edge, ends)
  }

  async #restartHub(how: 'crash' | 'kill' | 'stop'): Promise<void> {
    const { stage } = this
    if (how === 'stop') await stage.stopHub()
    else stage.endHub(how === 'crash')
    if (this.#rng.float() < 0.4) await this.#moreWhileAway()
    await stage.startHub()
  }

  async #moreWhileAway(): Promise<void> {
    await this.#offerSome()
    await this.#rest()
  }

  async #hubFull(): Promise<void> {
    const { stage } = this
    const { hubDisk } = stage
    stage.book.excuse('*', 'hub-full')
    hubDisk.setCapacity(hubDisk.usedBytes() + this.#rng.below(8 * KIB))
    for (let more = 1 + this.#rng.below(3); more > 0; more--) await this.#moreWhileAway()
    // Space is freed after a while.
    stage.clock.setTimer(() => hubDisk.setCapacity(Number.POSITIVE_INFINITY), this.#rng.below(8_000))
  }

  async #edgeFull(edge: EdgeDirectory): Promise<void> {
    const { disk } = edge
    this.stage.book.excuse(edge.edgeId, 'edge-full')
    disk.setCapacity(disk.usedBytes() + this.#rng.below(8 * KIB))
    for (let more = 1 + this.#rng.below(3); more > 0; more--) await this.#moreWhileAway()
    this.stage.clock.setTimer(() => disk.setCapacity(Number.POSITIVE_INFINITY), this.#rng.below(8_000))
  }

  /** More than its budget comes to an edge whose hub is away. */
  async #edgeBudget(edge: EdgeDirectory): Promise<void> {
    const { stage } = this
    const rng = this.#rng
    stage.book.excuse(edge.edgeId, 'edge-full')
    edge.settings.budgetBytes = 320 * KIB
    await this.#restartEdge(edge, 'stop')
    edge.offline = rng.float() < 0.7
    edge.running?.pair?.cut()
    const topic = rng.float() < 0.6 ? 'alpha' : 'beta'
    for (let bytes = rng.below(640 * KIB); bytes > 0; ) {
      const size = rng.below(16 * KIB)
      bytes -= size
      stage.offer(edge, rng.float() < 0.8 ? topic : 'alpha', rng.below(edge.settings.lanes), size)
      if (rng.float() < 0.3) await stage.turn(5)
    }
    edge.offline = false
  }

  async #hubRollback(): Promise<void> {
    const { stage } = this
    const copy = this.#hubCopy
    if (copy === null) {
      this.#copyHub()
      await this.#moreWhileAway()
      return this.#hubRollback()
    }
    stage.endHub(true)
    stage.book.excuse('*', copy.isOther ? 'moved' : 'hub-rollback')
    stage.hubIsOther(copy.disk.copy())
    if (this.#rng.float() < 0.4) await this.#moreWhileAway()
    await stage.startHub()
  }

  async #hubReplaced(): Promise<void> {
    const { stage } = this
    stage.endHub(true)
    stage.book.excuse('*', 'moved')
    stage.hubIsOther(new FakeDisk({ rng: stage.rng }))
    if (this.#hubCopy !== null) this.#hubCopy.isOther = true
    if (this.#rng.float() < 0.4) await this.#moreWhileAway()
    await stage.startHub()
  }

  #copyHub(): void {
    this.#hubCopy = { disk: this.stage.hubDisk.copy(), isOther: false }
  }

  #copyEdge(edge: EdgeDirectory): EdgeCopy {
    this.stage.poll()
    const copy = { disk: edge.disk.copy(), life: edge.life, ends: this.stage.book.ends(edge.life) }
    this.#edgeCopy.set(edge, copy)
    return copy
  }

  #copySomething(): void {
    if (this.#rng.float() < 0.5) this.#copyHub()
    else this.#copyEdge(this.#someEdge())
  }

  async #edgeRollback(edge: EdgeDirectory): Promise<void> {
    const { stage } = this
    let copy = this.#edgeCopy.get(edge)
    if (copy === undefined) {
      copy = this.#copyEdge(edge)
      await this.#moreWhileAway()
    }
    stage.book.excuse(edge.edgeId, 'fork')
    if (edge.running !== null) stage.endEdge(edge, true)
    const lost = edge.life
    edge.disk = copy.disk.copy()
    edge.life = copy.life
    await stage.startEdge(edge)
    stage.checkEnds(edge, copy.ends)
    stage.book.gone(lost, edge.life)
  }

  /** A copy of the directory runs beside it under the same name. */
  async #clone(edge: EdgeDirectory): Promise<void> {
    const { stage } = this
    const { directories } = stage
    if (directories.filter(({ edgeId }) => edgeId === edge.edgeId).length > 1) return
    const copy = this.#edgeCopy.get(edge) ?? this.#copyEdge(edge)
    if (this.#rng.float() < 0.5) await this.#moreWhileAway()
    stage.book.excuse(edge.edgeId, 'fork')
    const clone = stage.newDirectory(edge.edgeId, { ...edge.settings })
    clone.disk = copy.disk.copy()
    clone.life = copy.life
    await stage.startEdge(clone)
    stage.checkEnds(clone, copy.ends)
    directories.push(clone)
  }

  async #wipe(edge: EdgeDirectory): Promise<void> {
    const { stage } = this
    stage.book.excuse(edge.edgeId, 'wiped')
    if (edge.running !== null) stage.endEdge(edge, true)
    stage.book.gone(edge.life, null)
    edge.disk = new FakeDisk({ rng: stage.rng })
    edge.life = null
    await stage.startEdge(edge)
  }

  async #deleteTopic(edge: EdgeDirectory): Promise<void> {
    const { stage } = this
    const rng = this.#rng
    const { topics } = must(stage.hub, 'the hub runs').engine.ports
    const topic = topics.list().find(({ name }) => name === DOOMED_TOPIC)
    if (topic === undefined) return
    if (rng.float() < 0.6) {
      edge.offline = true
      edge.running?.pair?.cut()
    }
    stage.book.excuse('*', 'deleted')
    stage.book.deletedTopics.add(topic.topicId)
    await stage.during('the topic is deleted', topics.delete(DOOMED_TOPIC).catch(ignoreFull))
    this.#deleted = true
    if (rng.float() < 0.4) await this.#moreWhileAway()
    if (rng.float() < 0.7) await this.#createDoomed()
    edge.offline = false
  }

  async #createDoomed(): Promise<void> {
    const { topics } = must(this.stage.hub, 'the hub runs').engine.ports
    if (topics.list().some(({ name }) => name === DOOMED_TOPIC)) return
    await this.stage.during('the topic is made', topics.create({ name: DOOMED_TOPIC }).catch(ignoreFull))
  }

  #tooLarge(edge: EdgeDirectory): void {
    const { stage } = this
    const rng = this.#rng
    if (edge.running === null) return
    stage.book.excuse(edge.edgeId, 'large')
    for (let count = 1 + rng.below(6); count > 0; count--) {
      const bytes = rng.float() < 0.5 ? 1_100 + rng.below(4_000) : rng.below(300)
      stage.offer(edge, SMALL_TOPIC, rng.below(edge.settings.lanes), bytes)
    }
  }

  // --------------------------------------------------------------------------------------------- healing

  async #heal(): Promise<void> {
    const { stage } = this
    stage.cutRate = 0
    stage.delayRate = 0
    stage.hubSyncMs = 0
    stage.hubDisk.setCapacity(Number.POSITIVE_INFINITY)
    for (const directory of stage.directories) {
      directory.offline = false
      directory.disk.setCapacity(Number.POSITIVE_INFINITY)
    }
    if (this.#deleted && this.#rng.float() < 0.7) await this.#createDoomed()
    const originals = new Map<string, EdgeDirectory>()
    for (const directory of stage.directories) {
      if (!originals.has(directory.edgeId)) originals.set(directory.edgeId, directory)
    }
    // An operator stops all but one of those that run under one name, but lets each have its turn.
    for (const clone of stage.directories.filter(
      directory => originals.get(directory.edgeId) !== directory,
    )) {
      const original = must(originals.get(clone.edgeId), 'a clone has an original')
      await stage.stopEdge(original)
      await this.#drain([clone])
      await stage.stopEdge(clone)
      await stage.startEdge(original)
    }
    await this.#drain([...originals.values()])
  }

  async #drain(directories: readonly EdgeDirectory[]): Promise<void> {
    const { stage } = this
    const isDrained = (): boolean => directories.every(directory => stage.isDrained(directory))
    await stage.until('everything is drained', isDrained, DRAIN_MS)
    // An edge that has just come back thinks so until the hub tells how far it is.
    await stage.turns(SETTLE_MS / 100, 100)
    await stage.until('everything is drained for good', isDrained, DRAIN_MS)
  }
}

function ignoreFull(error: unknown): null {
  if (error instanceof Error && error.message.includes('space')) return null
  throw error
}
