import type { Logger } from 'pino'
import { pino } from 'pino'
import type { HubConfig } from '../../common/config-hub.ts'
import type { Codec, Link } from '../../common/env.ts'
import { isTributaryError, messageOf } from '../../common/errors.ts'
import { SUBSCRIBE_PATH, UPLINK_PATH } from '../../common/wire.ts'
import { PEER_PATH } from '../../common/wire-peer.ts'
import { acceptSubscriber, createSubscribeCounters } from '../../hub/endpoints/subscribe/subscriber.ts'
import { acceptUplink, createUplinkCounters } from '../../hub/endpoints/uplink/uplink.ts'
import type { ClusterEngine } from '../../hub/engines/cluster/engine.ts'
import { openClusterEngine } from '../../hub/engines/cluster/engine.ts'
import { FakeDisk } from '../fake-disk.ts'
import { HostClock } from './host-clock.ts'
import type { Network } from './network.ts'
import { SimProcess } from './process.ts'
import type { World } from './world.ts'

/** The machine of a hub node: its disk and clock stay, its processes come and go. */

/** A service manager starts again what ended, after so long. */
const RESTART_MS = { least: 100, more: 900 }

export const HTTP_PORT = 7600
export const PEER_PORT = 7700

/** Errors that nobody foresaw. */
const BROKEN = /"type":"(TypeError|RangeError|ReferenceError|AssertionFailure)"/

/** Without what all lines have. */
function shortened(line: string): string {
  return line.trim().replace('{"level":30,', '{')
}

/** What a process of a node runs. */
export interface RunningHub {
  process: SimProcess
  engine: ClusterEngine
  sessions: Set<{ close(): Promise<void> }>
}

export interface HubHostOptions {
  nodeId: number
  host: string
  /** For the trace. */
  id: number
  disk: FakeDisk
  config: HubConfig
  codec: Codec
}

export class HubHost {
  readonly nodeId: number
  readonly host: string
  /** For edges and clients, and for other nodes. */
  readonly address: string
  readonly peerAddress: string
  readonly clock: HostClock
  disk: FakeDisk
  /** Multiplies what its disk takes. */
  slowness = 1
  running: RunningHub | null = null
  /** Whether the service manager starts it again when it ends by itself. */
  isWanted = false
  /** Why the last start failed. */
  failure: string | null = null
  /** Called with each process that is up. */
  onStart: ((host: HubHost) => void) | null = null
  readonly #world: World
  readonly #network: Network
  readonly #options: HubHostOptions
  /** Also while it opens. */
  #process: SimProcess | null = null

  constructor(world: World, network: Network, options: HubHostOptions) {
    this.nodeId = options.nodeId
    this.host = options.host
    this.address = `${this.host}:${HTTP_PORT}`
    this.peerAddress = `${this.host}:${PEER_PORT}`
    this.disk = options.disk
    this.#world = world
    this.clock = new HostClock(world)
    this.#network = network
    this.#options = options
  }

  get process(): SimProcess | null {
    return this.#process
  }

  /** Starts a process, which takes its time; the service manager cares for what becomes of it. */
  start(): void {
    this.isWanted = true
    if (this.#process !== null) return
    const world = this.#world
    const { codec, config } = this.#options
    const process = new SimProcess(world, {
      name: `node ${this.host}`,
      id: this.#options.id,
      host: this.host,
      disk: this.disk,
      clock: this.clock,
      slowness: () => this.slowness,
      codec,
      dial: (from, url, timeoutMs) => this.#network.dial(from, url, timeoutMs),
    })
    this.#process = process
    world.say(() => `${this.host} starts on a disk of ${this.disk.usedBytes()} bytes`)
    process.guard(() => {
      void this.#open(process, config).catch((error: unknown) => {
        if (!process.isAlive) return
        const reason = messageOf(error)
        this.failure = reason
        world.count('hub start failed')
        world.say(() => `${this.host} did not start: ${reason}`)
        this.#ended(process)
      })
    })
  }

  async #open(process: SimProcess, config: HubConfig): Promise<void> {
    const { env } = process
    const engine = await openClusterEngine(config, env, this.#logger(), {
      onPeers: async acceptPeer => {
        this.#network.listen(this.peerAddress, {
          process,
          accept: (path, link) => (path === PEER_PATH ? acceptPeer(link) : link.terminate()),
        })
      },
    })
    const running: RunningHub = { process, engine, sessions: new Set() }
    engine.onFailed(error => {
      this.#world.count('hub gave up')
      this.#world.say(() => `${this.host} gives up: ${error.message}`)
      this.#ended(process)
    })
    const { ports } = engine
    const { limits } = config
    const log = this.#logger()
    const uplink = createUplinkCounters()
    const subscribe = createSubscribeCounters()
    this.#network.listen(this.address, {
      process,
      accept: (path: string, link: Link) => {
        if (path === UPLINK_PATH) {
          running.sessions.add(acceptUplink(link, { ports, env, log, limits, counters: uplink }))
        } else if (path === SUBSCRIBE_PATH) {
          const deps = { ports, env, log, limits, counters: subscribe }
          running.sessions.add(acceptSubscriber(link, deps))
        } else link.terminate()
      },
    })
    this.running = running
    this.failure = null
    this.#world.say(() => `${this.host} is up`)
    this.onStart?.(this)
  }

  /** Its log: told to who watches one seed, and searched for what a real node would swallow and must not happen. */
  #logger(): Logger {
    const world = this.#world
    const write = (line: string): void => {
      world.say(() => `${this.host} ${shortened(line)}`)
      if (BROKEN.test(line)) world.fail(new Error(`${this.host} logs ${line}`))
    }
    return pino({ level: 'info', base: null, timestamp: false }, { write })
  }

  /** The process ended by itself. */
  #ended(process: SimProcess): void {
    if (this.#process !== process) return
    this.#end(process)
    this.disk = this.disk.kill()
    if (!this.isWanted) return
    const { rng } = this.#world
    this.#world.schedule(RESTART_MS.least + rng.float() * RESTART_MS.more, () => {
      if (this.isWanted) this.start()
    })
  }

  #end(process: SimProcess): void {
    process.kill()
    this.#network.unlisten(this.address)
    this.#network.unlisten(this.peerAddress)
    this.#network.ended(process)
    this.#process = null
    this.running = null
  }

  /** kill -9: the page cache stays, connections are reset. */
  kill(): void {
    this.isWanted = false
    if (this.#process === null) return
    this.#end(this.#process)
    this.disk = this.disk.kill()
  }

  /** The power goes: what was not synced may be lost, and the network hears nothing. */
  powerOff(): void {
    this.isWanted = false
    this.#network.powerOff(this.host)
    if (this.#process !== null) this.#end(this.#process)
    this.disk = this.disk.crash()
  }

  powerOn(): void {
    this.#network.powerOn(this.host)
    this.start()
  }

  /** Another disk in place of what is there: an older copy, or an empty one. */
  restore(disk: FakeDisk): void {
    this.kill()
    this.disk = disk
  }

  wipe(): void {
    this.restore(new FakeDisk({ rng: this.#world.stream() }))
  }

  /** SIGTERM, as hub/node.ts does it; the process ends when it is done. */
  async stop(): Promise<void> {
    this.isWanted = false
    const { running } = this
    if (running === null) return this.kill()
    const { process, engine, sessions } = running
    try {
      await engine.leave()
      this.#network.unlisten(this.address)
      await Promise.all([...sessions].map(session => session.close()))
      await engine.close()
    } catch (error) {
      this.#world.say(() => `${this.host} ended with an error: ${messageOf(error)}`)
      if (!isTributaryError(error)) throw error
    }
    if (this.#process !== process) return
    this.#end(process)
    this.disk = this.disk.kill()
  }
}
