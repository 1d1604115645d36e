import type { Rng } from '../../common/env.ts'
import { PEER_PATH } from '../../common/wire-peer.ts'
import type { FakeDisk } from '../fake-disk.ts'
import { peerTag } from './checkers/peer-frames.ts'
import type { HostClock } from './host-clock.ts'
import type { SimProcess } from './process.ts'
import type { Sim } from './sim.ts'
import type { World } from './world.ts'

/** What faults are made with. */

/** A machine with processes that can be made to end. */
export interface Machine {
  readonly host: string
  readonly process: SimProcess | null
  isWanted: boolean
  slowness: number
  start(): void
  kill(): void
  powerOff(): void
  powerOn(): void
  stop(): Promise<void>
}

/** What a fault may use. */
export interface FaultContext {
  sim: Sim
  rng: Rng
  /** One of them that no other fault has in its hands; null where there is none. It is, until `isDone` resolves. */
  take<M extends Machine>(machines: readonly M[], use: (machine: M) => Promise<void>): Promise<boolean>
  /** Some time, from short to long. */
  pause(leastMs: number, mostMs: number): Promise<void>
  /** Does it while no fault keeps nodes from each other; false where it was not done. */
  quietly(work: () => Promise<boolean>): Promise<boolean>
  /** Called when all is to be well again. */
  onHeal(undo: () => void): void
}

/** Does it, and undoes it after a while where that is due; false where it was not possible. */
export type FaultHandler = (context: FaultContext) => Promise<boolean>

/** An orderly stop may take so long before a service manager kills. */
const STOP_PATIENCE_MS = 25_000
/** So many times as slow is a disk that all but stands still. */
const STALLED = 1_000

/** Ends what runs on a machine, one way or the other, and starts it again. */
export async function bounce(
  { sim, rng, pause }: FaultContext,
  machine: Machine,
  how: 'kill' | 'power' | 'stop',
  mostMs: number,
): Promise<void> {
  if (how === 'power') {
    // Often a disk stalls before the machine goes, with all that it holds back; and it goes when it has just promised something.
    if (rng.below(2) === 0) {
      machine.slowness = STALLED
      await pause(20, 500)
      await Promise.race([sim.network.whenSaid(machine.host, isPromise), pause(20, 500)])
      machine.slowness = 1
    }
    machine.powerOff()
    await pause(10, mostMs)
    machine.powerOn()
    return
  }
  if (how === 'stop') {
    await Promise.race([machine.stop(), sim.world.sleep(STOP_PATIENCE_MS)])
    if (machine.process !== null) sim.world.count('stopped too slowly')
  }
  machine.kill()
  await pause(10, mostMs)
  machine.start()
}

/** What is said to edges and clients, and by followers to their leaders. */
function isPromise(path: string, data: Uint8Array): boolean {
  return path !== PEER_PATH || peerTag(data) === 'fetch'
}

/** SIGSTOP, and SIGCONT. */
export async function freeze({ pause }: FaultContext, { process }: Machine, mostMs: number): Promise<void> {
  process?.pause()
  await pause(100, mostMs)
  process?.resume()
}

/** Its disk is full for a while. */
export async function fill(
  { rng, pause }: FaultContext,
  machine: Machine & { disk: { usedBytes(): number; setCapacity(bytes: number): void } },
): Promise<void> {
  const { disk } = machine
  disk.setCapacity(disk.usedBytes() + rng.below(8 * 1_024))
  await pause(500, 8_000)
  disk.setCapacity(Number.POSITIVE_INFINITY)
  machine.disk.setCapacity(Number.POSITIVE_INFINITY)
}

/** Its disk takes many times as long, for a while. */
export async function slowDisk({ rng, pause }: FaultContext, machines: readonly Machine[]): Promise<boolean> {
  const machine = machines[rng.below(machines.length)]
  if (machine === undefined) return false
  machine.slowness = [5, 50, 300][rng.below(3)] ?? 5
  await pause(100, 6_000)
  machine.slowness = 1
  return true
}

/** Flips a bit of a segment below `folder` that is full: nobody writes it any more. */
export function flipSealedBit(world: World, rng: Rng, disk: FakeDisk, folder: string): boolean {
  const segments = disk.paths().filter(path => path.startsWith(folder) && /\/\d{20}\.log$/.test(path))
  segments.sort()
  const folderOf = (path: string | undefined): string | undefined => path?.slice(0, path.lastIndexOf('/'))
  const sealed = segments.filter((path, index) => folderOf(path) === folderOf(segments[index + 1]))
  const path = sealed[rng.below(Math.max(1, sealed.length))]
  const bytes = path === undefined ? 0 : disk.contentOf(path).length
  if (path === undefined || bytes === 0) return false
  const position = rng.below(bytes)
  disk.flipBit(path, position, rng.below(8))
  world.say(() => `a bit of ${path} at ${position} flips`)
  return true
}

const DAY_MS = 86_400_000

/** Its wall clock jumps, or its clocks run fast or slow from now on. */
export function jumpClock(rng: Rng, clock: HostClock | undefined): void {
  if (clock === undefined) return
  const kind = rng.below(3)
  if (kind === 0) clock.wallShiftMs = rng.below(2) === 0 ? 0 : rng.below(20_000) - 10_000
  else if (kind === 1)
    clock.wallShiftMs = clock.wallShiftMs === 0 ? (rng.below(2) === 0 ? DAY_MS : -DAY_MS) : 0
  else clock.setRate(0.9 + rng.float() * 0.2)
}
