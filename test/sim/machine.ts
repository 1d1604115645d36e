import type { Codec } from '../../common/env.ts'
import { isTributaryError, messageOf } from '../../common/errors.ts'
import { FakeDisk } from '../fake-disk.ts'
import { HostClock } from './host-clock.ts'
import type { Network } from './network.ts'
import { SimProcess } from './process.ts'
import type { World } from './world.ts'

/** A service manager starts again what ended, after so long. */
const RESTART_MS = { least: 100, more: 900 }

export interface MachineOptions {
  host: string
  /** For the trace. */
  id: number
  disk: FakeDisk
  codec: Codec
}

/** A disk may fail, or be full, in the middle of anything. */
function isForeseen(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : null
  return isTributaryError(error) || code === 'EIO' || code === 'ENOSPC'
}

/** A machine that is to run one process: its disk and clock stay, processes come and go. */
export abstract class MachineHost<Running extends { process: SimProcess }> {
  readonly host: string
  readonly clock: HostClock
  disk: FakeDisk
  /** Multiplies what its disk takes. */
  slowness = 1
  running: Running | null = null
  /** Whether the service manager starts it again when it ends by itself. */
  isWanted = false
  /** Why the last start failed. */
  failure: string | null = null
  protected readonly world: World
  protected readonly network: Network
  readonly #kind: 'node' | 'edge'
  readonly #options: MachineOptions
  /** Also while it opens. */
  #process: SimProcess | null = null

  constructor(world: World, network: Network, kind: 'node' | 'edge', options: MachineOptions) {
    this.world = world
    this.network = network
    this.#kind = kind
    this.#options = options
    this.host = options.host
    this.disk = options.disk
    this.clock = new HostClock(world)
  }

  /** What the process does until it is up. */
  protected abstract open(process: SimProcess): Promise<Running>
  /** SIGTERM: resolves when the process may end. */
  protected abstract shutDown(running: Running): Promise<void>
  /** Called before its process is no more. */
  protected abstract ending(): void

  get process(): SimProcess | null {
    return this.#process
  }

  /** Starts a process, which takes its time; the service manager cares for what becomes of it. */
  start(): void {
    this.isWanted = true
    if (this.#process !== null) return
    const { world, host } = this
    const { id, codec } = this.#options
    const process = new SimProcess(world, {
      name: `${this.#kind} ${host}`,
      id,
      host,
      disk: this.disk,
      clock: this.clock,
      slowness: () => this.slowness,
      codec,
      dial: (from, url, timeoutMs) => this.network.dial(from, url, timeoutMs),
    })
    this.#process = process
    world.say(() => `${host} starts on a disk of ${this.disk.usedBytes()} bytes`)
    process.guard(() => {
      void this.#run(process)
    })
  }

  async #run(process: SimProcess): Promise<void> {
    try {
      const running = await this.open(process)
      if (!process.isAlive) return
      this.running = running
      this.failure = null
      this.world.say(() => `${this.host} is up`)
    } catch (error) {
      if (!process.isAlive) return
      if (!isForeseen(error)) this.world.fail(error)
      this.failure = messageOf(error)
      this.world.count(`${this.#kind} start failed`)
      this.world.say(() => `${this.host} did not start: ${this.failure}`)
      this.#restart(process)
    }
  }

  /** The process ended by itself. */
  protected gaveUp(process: SimProcess, error: Error): void {
    this.world.count(`${this.#kind} gave up`)
    this.world.say(() => `${this.host} gives up: ${error.message}`)
    this.#restart(process)
  }

  #restart(process: SimProcess): void {
    if (this.#process !== process) return
    this.#end(process)
    if (!this.isWanted) return
    this.world.schedule(RESTART_MS.least + this.world.rng.float() * RESTART_MS.more, () => {
      if (this.isWanted) this.start()
    })
  }

  /** The page cache stays, connections are reset. */
  #end(process: SimProcess): void {
    this.#halt(process)
    this.disk = this.disk.kill()
  }

  #halt(process: SimProcess): void {
    this.ending()
    process.kill()
    this.network.ended(process)
    this.#process = null
    this.running = null
  }

  /** kill -9. */
  kill(): void {
    this.isWanted = false
    if (this.#process !== null) this.#end(this.#process)
  }

  /** The power goes: what was not synced may be lost, and the network hears nothing. */
  powerOff(): void {
    this.isWanted = false
    this.network.powerOff(this.host)
    if (this.#process !== null) this.#halt(this.#process)
    this.disk = this.disk.crash()
  }

  powerOn(): void {
    this.network.powerOn(this.host)
    this.start()
  }

  /** Another disk in place of what is there: a copy of some time ago, or an empty one. */
  protected swapDisk(disk: FakeDisk | null): void {
    this.kill()
    this.disk = disk ?? new FakeDisk({ rng: this.world.stream(), isTimed: true })
  }

  /** SIGTERM; the process ends when it is done. */
  async stop(): Promise<void> {
    this.isWanted = false
    const { running } = this
    if (running === null) return this.kill()
    try {
      await this.shutDown(running)
    } catch (error) {
      this.world.say(() => `${this.host} ended with an error: ${messageOf(error)}`)
      if (!isTributaryError(error)) throw error
    }
    if (this.#process === running.process) this.#end(running.process)
  }
}
