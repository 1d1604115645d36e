import { pino } from 'pino'
import { defaultHubConfig } from '../../../../common/config-hub.ts'
import type { TributaryError } from '../../../../common/errors.ts'
import { openDataDir } from '../../../../common/log/data-dir.ts'
import type { DataDir } from '../../../../common/log/types.ts'
import type { ClusterNode } from '../../../../hub/engines/cluster/cluster-node.ts'
import { openClusterNode } from '../../../../hub/engines/cluster/cluster-node.ts'
import { settingsOf } from '../../../../hub/engines/cluster/engine.ts'
import { openQuorumStorage } from '../../../../hub/engines/cluster/quorum/storage.ts'
import { nodeIdOf } from '../../../../hub/raft/types.ts'
import { FakeClock, seededRng } from '../../../fake-clock.ts'
import { FakeDisk } from '../../../fake-disk.ts'
import { addressOf, PeerNet } from '../peers/stage.ts'
import { environment, storage as storageOptions } from '../stage.ts'

/** Whole nodes but for their partitions: links, quorum, registration, duties; a network in memory and a clock that they share. */

const TURNS_A_STEP = 15

/** A process of a node. */
export interface Process {
  readonly id: number
  readonly disk: FakeDisk
  dataDir: DataDir | null
  /** Null before it is part of a cluster. */
  node: ClusterNode | null
  failure: TributaryError | null
  /** Resolves when it is registered; rejects where it can't be. */
  started: Promise<void>
  stop: AbortController
}

export class NodeStage {
  readonly clock = new FakeClock()
  readonly net = new PeerNet()
  readonly processes = new Map<number, Process>()
  readonly #disks = new Map<number, FakeDisk>()
  #seeds = 0

  process(id: number): Process {
    const found = this.processes.get(id)
    if (found === undefined) throw new Error(`node ${id} is not running`)
    return found
  }

  node(id: number): ClusterNode {
    const { node } = this.process(id)
    if (node === null) throw new Error(`node ${id} is part of no cluster yet`)
    return node
  }

  disk(id: number): FakeDisk {
    const disk = this.#disks.get(id) ?? new FakeDisk({ rng: seededRng(++this.#seeds) })
    this.#disks.set(id, disk)
    return disk
  }

  wipe(id: number): void {
    this.#disks.delete(id)
  }

  /** Starts a process that was told of these nodes, and listens where its node is found unless it is to be found by nobody. */
  start(id: number, peers: readonly number[], disk = this.disk(id)): Process {
    const process: Process = {
      id,
      disk,
      dataDir: null,
      node: null,
      failure: null,
      started: Promise.resolve(),
      stop: new AbortController(),
    }
    this.processes.set(id, process)
    process.started = this.#run(process, peers)
    process.started.catch(() => {})
    return process
  }

  async #run(process: Process, peers: readonly number[]): Promise<void> {
    const { id, disk } = process
    const env = { ...environment(disk, this.clock), net: this.net.net(id), rng: seededRng(++this.#seeds) }
    const config = defaultHubConfig({
      data: '/hub',
      nodeId: id,
      cluster: { peers: peers.map(peer => `${peer}@${addressOf(peer)}`), peerListen: addressOf(id) },
    })
    const dataDir = await openDataDir('/hub', storageOptions, env)
    process.dataDir = dataDir
    const context = { dataDir, disk, clock: this.clock, rng: env.rng, nodeId: id, onDamage: () => {} }
    const node = await openClusterNode({
      config,
      env,
      log: pino({ level: 'silent' }),
      dataDir,
      storage: await openQuorumStorage(context),
      settings: settingsOf(config),
      access: { secret: null, tls: null },
      failed: error => {
        process.failure = error
      },
      onPeers: async accept => {
        this.net.listening.set(addressOf(id), accept)
      },
      stop: process.stop.signal,
    })
    process.node = node
    await node.register()
    node.begin()
  }

  /** Ends the process without a word: its connections break, its page cache stays. */
  kill(id: number): void {
    const process = this.process(id)
    this.processes.delete(id)
    this.net.listening.delete(addressOf(id))
    process.stop.abort()
    void process.node?.close()
    this.#disks.set(id, process.disk.kill())
    for (const { from, address, pair } of this.net.pairs) {
      if (from === id || address === addressOf(id)) pair.cut()
    }
  }

  /** Lets nothing pass to and from the node, and tells nobody. */
  cut(id: number): void {
    for (const { from, address, pair } of this.net.pairs) {
      if (from !== id && address !== addressOf(id)) continue
      pair.hold('left')
      pair.hold('right')
    }
    this.net.listening.set(addressOf(id), () => {})
  }

  async stop(id: number): Promise<void> {
    const { node, dataDir, stop } = this.process(id)
    stop.abort()
    await this.run(node?.lifecycle.leave() ?? Promise.resolve())
    this.net.listening.delete(addressOf(id))
    await this.run(node?.close() ?? Promise.resolve())
    await this.run(dataDir?.close() ?? Promise.resolve())
    this.processes.delete(id)
  }

  async close(): Promise<void> {
    for (const id of [...this.processes.keys()]) this.kill(id)
    await this.pass(50)
  }

  async pass(ms: number, stepMs = 10): Promise<void> {
    for (let passed = 0; passed < ms; passed += stepMs) {
      this.clock.advance(stepMs)
      for (let turns = 0; turns < TURNS_A_STEP; turns++) await new Promise(resolve => setImmediate(resolve))
    }
  }

  /** Lets time pass until it is so; gives how long that took. */
  async until(isSo: () => boolean, what: string, withinMs = 30_000): Promise<number> {
    const startMs = this.clock.monotonicMs()
    while (!isSo()) {
      if (this.clock.monotonicMs() - startMs > withinMs) throw new Error(`it never was so: ${what}`)
      await this.pass(10)
    }
    return this.clock.monotonicMs() - startMs
  }

  async run<T>(promise: Promise<T>): Promise<T> {
    let settled = false
    const watched = promise.finally(() => {
      settled = true
    })
    watched.catch(() => {})
    await this.until(() => settled, 'a promise settles', 60_000)
    return watched
  }

  /** The active controller's node, 0 without one. */
  controller(): number {
    const active = [...this.processes.values()].filter(({ node }) => node?.metadata.activeTerm() != null)
    return active.sort((left, right) => termOf(right) - termOf(left))[0]?.id ?? 0
  }

  /** Ids of voters, as the node knows them. */
  voters(id: number): number[] {
    return this.node(id).metadata.status().config.voters.map(nodeIdOf).sort()
  }

  /** Ids of nodes that are alive, as the node knows them. */
  live(id: number): number[] {
    const nodes = this.node(id).metadata.image().nodes()
    return nodes
      .filter(node => !node.fenced)
      .map(node => node.nodeId)
      .sort()
  }

  /** Whether these nodes, and no others, live and these vote, as each of them knows. */
  isWhole(ids: readonly number[], voters: readonly number[] = ids): boolean {
    return ids.every(id => {
      // Registered anew: before that the others may take it for the one it was.
      if (this.processes.get(id)?.node?.lifecycle.livingAs() == null) return false
      return `${this.live(id)}` === `${ids}` && `${this.voters(id)}` === `${voters}`
    })
  }
}

function termOf({ node }: Process): number {
  return node?.metadata.status().term ?? 0
}
