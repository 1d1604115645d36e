import { assert } from '../../../../common/assert.ts'
import { defaultHubConfig } from '../../../../common/config-hub.ts'
import type { Rng } from '../../../../common/env.ts'
import { TributaryError } from '../../../../common/errors.ts'
import { openDataDir } from '../../../../common/log/data-dir.ts'
import type { DataDir } from '../../../../common/log/types.ts'
import type { PeerCall } from '../../../../common/wire-peer.ts'
import { settingsOf } from '../../../../hub/engines/cluster/engine.ts'
import { createJudge } from '../../../../hub/engines/cluster/judge.ts'
import type { QuorumMetadata } from '../../../../hub/engines/cluster/metadata.ts'
import { createQuorumMetadata } from '../../../../hub/engines/cluster/metadata.ts'
import { decodeMessage } from '../../../../hub/engines/cluster/quorum/codec.ts'
import { foundCluster, joinCluster, loadMember } from '../../../../hub/engines/cluster/quorum/opening.ts'
import { SNAPSHOT_LIMITS } from '../../../../hub/engines/cluster/quorum/snapshots.ts'
import type { QuorumStorage } from '../../../../hub/engines/cluster/quorum/storage.ts'
import { openQuorumStorage } from '../../../../hub/engines/cluster/quorum/storage.ts'
import type { SentFrame } from '../../../../hub/engines/cluster/types.ts'
import type { Restored } from '../../../../hub/raft/state.ts'
import type { MemberId, Message } from '../../../../hub/raft/types.ts'
import { nodeIdOf } from '../../../../hub/raft/types.ts'
import { FakeClock, seededRng } from '../../../fake-clock.ts'
import { FakeDisk } from '../../../fake-disk.ts'
import { environment, storage as storageOptions } from '../stage.ts'

/** Metadata of several nodes in one process: disks that lose what was not synced, links that lose, cut and delay. */

const CLUSTER_ID = 'c1'
const ELECTION_TIMEOUT_MS = 800

/** A node's metadata and what is under it. */
export interface QuorumNode {
  readonly id: number
  disk: FakeDisk
  /** Null while it is down. */
  up: Running | null
  /** What made it stop by itself. */
  failure: TributaryError | null
}

interface Running {
  dataDir: DataDir
  storage: QuorumStorage
  metadata: QuorumMetadata
  /** Goes false when it crashes, so that what still runs of it reaches nobody. */
  alive: boolean
}

export interface NetFaults {
  /** Of so many frames one is lost; 0: none. */
  lossOneIn: number
  /** Frames wait up to so long. */
  delayMs: number
}

/** Machines, a clock that they share, and the links between them. */
export class QuorumStage {
  readonly clock = new FakeClock()
  readonly nodes = new Map<number, QuorumNode>()
  readonly rng: Rng
  /** May be changed before nodes start. */
  snapshots = SNAPSHOT_LIMITS
  readonly faults: NetFaults = { lossOneIn: 0, delayMs: 0 }
  readonly #cuts = new Set<string>()
  readonly #promises = createPromises()

  constructor(seed: number) {
    this.rng = seededRng(seed)
  }

  node(id: number): QuorumNode {
    const known = this.nodes.get(id)
    if (known !== undefined) return known
    const node = { id, disk: new FakeDisk({ rng: this.rng }), up: null, failure: null }
    this.nodes.set(id, node)
    return node
  }

  /** A machine whose node leads a cluster of its own, or what it finds on its disk. */
  async lead(id = 1): Promise<QuorumMetadata> {
    await this.start(id)
    const metadata = this.metadata(id)
    metadata.start()
    await this.until(() => metadata.activeTerm() !== null, 'it leads')
    return metadata
  }

  metadata(id: number): QuorumMetadata {
    const { up } = this.node(id)
    if (up === null) throw new Error(`node ${id} is down`)
    return up.metadata
  }

  seat(id: number): MemberId {
    const { up } = this.node(id)
    if (up === null) throw new Error(`node ${id} is down`)
    return up.storage.self()
  }

  /** Machines 1 to `count`; the first one has founded the cluster and leads it, the others have voted since. */
  async found(count: number): Promise<void> {
    for (let id = 1; id <= count; id++) {
      if (id === 1) await this.lead()
      else await this.start(id)
    }
    for (let id = 2; id <= count; id++) await this.admit(id)
  }

  /** Makes a node that follows a voter, by whoever leads. */
  async admit(id: number): Promise<void> {
    const member = this.seat(id)
    await this.until(() => this.leader()?.change({ t: 'add-learner', member })?.taken, `${member} is added`)
    await this.until(() => this.leader()?.change({ t: 'promote', member })?.taken, `${member} is promoted`)
    await this.until(() => this.#agree(), 'the members agree')
  }

  #agree(): boolean {
    const leader = this.leader()
    if (leader === null) return false
    const { voters, learners } = leader.status().config
    return [...voters, ...learners].every(member => {
      const up = this.node(nodeIdOf(member)).up
      return up === null || up.metadata.appliedIndex() >= leader.stats().commitIndex
    })
  }

  /** The active controller of the newest term. */
  leader(): QuorumMetadata | null {
    const active = [...this.nodes.values()].flatMap(({ up }) => up?.metadata ?? [])
    return (
      active
        .filter(metadata => metadata.activeTerm() !== null)
        .sort((left, right) => right.status().term - left.status().term)[0] ?? null
    )
  }

  leaderId(): number {
    const leader = this.leader()
    return [...this.nodes.values()].find(({ up }) => up?.metadata === leader)?.id ?? 0
  }

  async start(id: number): Promise<void> {
    const node = this.node(id)
    const env = { ...environment(node.disk, this.clock), rng: this.rng }
    const dataDir = await openDataDir('/hub', storageOptions, env)
    const storage = await openQuorumStorage({
      dataDir,
      disk: node.disk,
      clock: this.clock,
      rng: this.rng,
      nodeId: id,
      onDamage: () => {},
    })
    const loaded =
      (await loadMember(storage)) ??
      (id === 1 ? await foundCluster(storage, CLUSTER_ID) : await joinCluster(storage, CLUSTER_ID))
    this.#promises.check(storage.self(), loaded.restored)
    const metadata = createQuorumMetadata(
      {
        clock: this.clock,
        rng: this.rng,
        nodeId: id,
        electionTimeoutMs: ELECTION_TIMEOUT_MS,
        storage,
        snapshots: this.snapshots,
        judge: createJudge(env, settingsOf(defaultHubConfig({ data: '/hub' })), id),
        isAside: () => false,
        peers: {
          send: (to, frame) => up.alive && this.#send(id, to, frame),
          call: (to, call) => this.#call(id, to, call),
          hear: () => {},
          isUp: to => this.#passes(id, to),
        },
        otherNodes: () => [...this.nodes.keys()].filter(other => other !== id),
      },
      loaded,
    )
    const up: Running = { dataDir, storage, metadata, alive: true }
    metadata.onFailed(error => {
      node.failure = error
    })
    node.up = up
  }

  /** The machine loses its power: what was not synced may be lost. */
  crash(id: number): void {
    const node = this.node(id)
    if (node.up === null) return
    node.up.alive = false
    void node.up.metadata.close()
    node.up = null
    node.disk = node.disk.crash()
  }

  async stop(id: number): Promise<void> {
    const node = this.node(id)
    if (node.up === null) return
    await node.up.metadata.close()
    await node.up.dataDir.close()
    node.up = null
  }

  async close(): Promise<void> {
    for (const id of this.nodes.keys()) await this.stop(id)
  }

  /** Nothing passes from one to the other. */
  cut(from: number, to: number): void {
    this.#cuts.add(`${from}-${to}`)
  }

  isolate(id: number): void {
    for (const other of this.nodes.keys()) {
      this.cut(id, other)
      this.cut(other, id)
    }
  }

  heal(): void {
    this.#cuts.clear()
    this.faults.lossOneIn = 0
    this.faults.delayMs = 0
  }

  #passes(from: number, to: number): boolean {
    return this.nodes.get(to)?.up != null && !this.#cuts.has(`${from}-${to}`)
  }

  #send(from: number, to: number, frame: SentFrame): boolean {
    if (!this.#passes(from, to)) return false
    if (frame.t !== 'raft' && frame.t !== 'snapshot-chunk') return false
    if (frame.t === 'raft') for (const bytes of frame.messages) this.#promises.sent(decodeMessage(bytes))
    const { lossOneIn, delayMs } = this.faults
    // Frames over one link come in order, or the link is gone with all that follows: only the quorum's own may be lost.
    if (frame.t === 'raft' && lossOneIn > 0 && this.rng.below(lossOneIn) === 0) return true
    const deliver = (): void => {
      if (this.#passes(from, to)) this.node(to).up?.metadata.receive(frame)
    }
    if (delayMs > 0 && frame.t === 'raft') this.clock.setTimer(deliver, this.rng.float() * delayMs)
    else setImmediate(deliver)
    return true
  }

  async #call(from: number, to: number, call: Extract<PeerCall, { c: 'controller' }>) {
    const broken = new TributaryError('not_available', 'the link is down')
    await turn()
    if (!this.#passes(from, to)) throw broken
    const answer = await this.metadata(to).answer(call)
    await turn()
    if (!this.#passes(from, to) || !this.#passes(to, from)) throw broken
    return answer
  }

  /** Lets time pass in small steps, and all that follows from it happen. */
  async pass(ms: number, stepMs = 10): Promise<void> {
    for (let passed = 0; passed < ms; passed += stepMs) {
      this.clock.advance(stepMs)
      await this.settle()
    }
  }

  async settle(): Promise<void> {
    for (let turns = 0; turns < 12; turns++) await turn()
  }

  /** Lets time pass until it is so. */
  async until(isSo: () => boolean | undefined, what: string, withinMs = 20_000): Promise<number> {
    const startMs = this.clock.monotonicMs()
    while (isSo() !== true) {
      if (this.clock.monotonicMs() - startMs > withinMs) throw new Error(`it never was so: ${what}`)
      await this.pass(10)
    }
    return this.clock.monotonicMs() - startMs
  }

  /** Resolves with time passing. */
  async run<T>(promise: Promise<T>): Promise<T> {
    let settled = false
    const watched = promise.finally(() => {
      settled = true
    })
    watched.catch(() => {})
    await this.until(() => settled, 'a promise settles', 60_000)
    return watched
  }
}

interface Promised {
  term: number
  vote: MemberId | null
  match: number
}

/** What members promised by their messages, and must find on their disks when they come up again. */
function createPromises() {
  const promises = new Map<MemberId, Promised>()
  return {
    sent: (message: Message): void => {
      const { from, to, term } = message
      const vote = message.t === 'vote' ? from : message.t === 'vote-reply' && message.granted ? to : null
      const match = message.t === 'append-ok' ? message.match : -1
      if (vote === null && match < 0) return
      const known = promises.get(from)
      if (known === undefined || known.term < term) promises.set(from, { term, vote, match })
      else if (known.term === term) {
        known.vote ??= vote
        known.match = Math.max(known.match, match)
      }
    },
    check: (self: MemberId, { hardState, snapshot, entries }: Restored): void => {
      const promised = promises.get(self)
      if (promised === undefined) return
      const { term, vote } = hardState
      const end = (entries.at(-1) ?? snapshot).index
      const kept =
        term > promised.term ||
        (term === promised.term &&
          (promised.vote === null || vote === promised.vote) &&
          end >= promised.match)
      assert(kept, `${self} promised ${JSON.stringify(promised)} and has ${term}, ${vote}, to ${end}`)
    },
  }
}

function turn(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}

/** A request that leaves its name in the image for ever. */
export function connect(
  metadata: QuorumMetadata,
  edgeId: string,
  isWanted?: () => boolean,
): Promise<unknown> {
  return metadata.submit('connect-edge', { edgeId, session: 0, address: 'a', software: 's' }, isWanted)
}

/** The edges an image knows. */
export function edgesOf(metadata: QuorumMetadata): string[] {
  return metadata
    .image()
    .edges()
    .map(({ id }) => id)
}
