import type { Disk, DiskFile, OpenMode, Rng } from '../common/env.ts'
import { TributaryError } from '../common/errors.ts'
import { seededRng } from './fake-clock.ts'

/** A change to a file that is in the page cache and not yet on the disk. */
type Change = { kind: 'write'; position: number; bytes: Uint8Array } | { kind: 'truncate'; sizeBytes: number }

/** A growing byte array. */
class Content {
  bytes = new Uint8Array(0)
  sizeBytes = 0

  apply(change: Change): void {
    if (change.kind === 'truncate') this.resize(change.sizeBytes)
    else {
      const end = change.position + change.bytes.length
      if (end > this.sizeBytes) this.resize(end)
      this.bytes.set(change.bytes, change.position)
    }
  }

  resize(sizeBytes: number): void {
    if (sizeBytes > this.bytes.length) {
      const grown = new Uint8Array(Math.max(sizeBytes, this.bytes.length * 2, 256))
      grown.set(this.bytes.subarray(0, this.sizeBytes))
      this.bytes = grown
    } else if (sizeBytes < this.sizeBytes) this.bytes.fill(0, sizeBytes, this.sizeBytes)
    this.sizeBytes = sizeBytes
  }
}

interface Inode {
  cached: Content
  durable: Content
  pending: Change[]
}

/** A change of a folder that was not synced yet. */
type Entry =
  | { kind: 'link'; name: string; inode: Inode }
  | { kind: 'unlink'; name: string }
  | { kind: 'rename'; from: string; to: string; inode: Inode }

interface Folder {
  cached: Map<string, Inode>
  durable: Map<string, Inode>
  pending: Entry[]
}

interface World {
  folders: Map<string, Folder>
  locks: Set<string>
}

/** How a write that was under way at a crash may be torn. */
export type Tearing = 'none' | 'sector' | 'byte'

export interface FakeDiskOptions {
  rng: Rng
  capacityBytes?: number
  tearing?: Tearing
  /** Whoever uses it lets time pass: calls settle at once. */
  isTimed?: boolean
}

/** On a disk of no more than this room is scarce from the start: what finds none is refused at once, not after some more was acked. */
export const SMALL_DISK_BYTES = 32 * 1024 * 1024

/** A disk of SMALL_DISK_BYTES. */
export function smallDisk(seed = 1): FakeDisk {
  return new FakeDisk({ rng: seededRng(seed), capacityBytes: SMALL_DISK_BYTES })
}

const SECTOR_BYTES = 512
/** Zeros of preallocated files and the like need no history of their own. */
const BLOCK_BYTES = 4096

/**
 * A disk in memory that keeps what was not fsynced apart from what was. `crash` returns the disk as it would be found
 * afterwards: each unsynced write there, missing or torn, in any combination; each unsynced creation, rename and
 * removal done or not. Folders themselves are made durably. All choices come from `rng`.
 */
export class FakeDisk implements Disk {
  readonly #rng: Rng
  readonly #world: World
  readonly #tearing: Tearing
  readonly #isTimed: boolean
  #dead = false
  #capacityBytes: number
  #failSyncs = 0
  #gate: Promise<void> | undefined
  #openGate: (() => void) | undefined
  /** datasync and syncDir calls that were completed. */
  syncs = 0
  /** Calls to datasync that wait at the gate. */
  heldSyncs = 0
  reads = 0
  readBytes = 0

  constructor(options: FakeDiskOptions, world?: World) {
    this.#rng = options.rng
    this.#capacityBytes = options.capacityBytes ?? Number.POSITIVE_INFINITY
    this.#tearing = options.tearing ?? 'sector'
    this.#isTimed = options.isTimed ?? false
    this.#world = world ?? { folders: new Map(), locks: new Set() }
  }

  /** The next `count` datasyncs fail with EIO; what they should have written is dropped from the cache's duty. */
  failSyncs(count: number): void {
    this.#failSyncs = count
  }

  /** From now on no datasync completes until the returned function is called. */
  holdSyncs(): () => void {
    this.#gate = new Promise(resolve => {
      this.#openGate = resolve
    })
    return () => {
      this.#gate = undefined
      this.#openGate?.()
    }
  }

  setCapacity(bytes: number): void {
    this.#capacityBytes = bytes
  }

  usedBytes(): number {
    let used = 0
    for (const folder of this.#world.folders.values()) {
      for (const inode of folder.cached.values()) used += inode.cached.sizeBytes
    }
    return used
  }

  /** Flips one bit of what a file durably holds (and of the cache). */
  flipBit(path: string, position: number, bit: number): void {
    const inode = this.#find(path)
    for (const content of [inode.cached, inode.durable]) {
      const old = content.bytes[position]
      if (position < content.sizeBytes && old !== undefined) content.bytes[position] = old ^ (1 << bit)
    }
  }

  /** Every file's path. */
  paths(): string[] {
    return [...this.#world.folders].flatMap(([path, folder]) =>
      [...folder.cached.keys()].map(name => `${path}/${name}`),
    )
  }

  contentOf(path: string): Uint8Array {
    const { cached } = this.#find(path)
    return cached.bytes.slice(0, cached.sizeBytes)
  }

  /** Cuts power: this disk fails every call from now on, the returned one holds what survived. */
  crash(): FakeDisk {
    this.#dead = true
    const survived = new Map<Inode, Inode>()
    const folders = new Map<string, Folder>()
    for (const [path, folder] of this.#world.folders) {
      const entries = new Map(folder.durable)
      for (const change of folder.pending) if (this.#rng.float() < 0.5) applyEntry(entries, change)
      const after = new Map<string, Inode>()
      for (const [name, inode] of entries) {
        let copy = survived.get(inode)
        if (copy === undefined) {
          copy = this.#afterCrash(inode)
          survived.set(inode, copy)
        }
        after.set(name, copy)
      }
      folders.set(path, { cached: after, durable: new Map(after), pending: [] })
    }
    return this.#successor({ folders, locks: new Set() })
  }

  /** Ends the process alone (kill -9): the page cache stays. */
  kill(): FakeDisk {
    this.#dead = true
    return this.#successor({ ...this.#world, locks: new Set() })
  }

  /** A disk of its own with all that processes see here now, as a snapshot of the filesystem would have it. */
  copy(): FakeDisk {
    const folders = new Map<string, Folder>()
    for (const [path, folder] of this.#world.folders) {
      const entries = new Map<string, Inode>()
      for (const [name, { cached }] of folder.cached) {
        entries.set(name, { cached: copyContent(cached), durable: copyContent(cached), pending: [] })
      }
      folders.set(path, { cached: entries, durable: new Map(entries), pending: [] })
    }
    const options = { rng: this.#rng, tearing: this.#tearing, isTimed: this.#isTimed }
    return new FakeDisk(options, { folders, locks: new Set() })
  }

  #successor(world: World): FakeDisk {
    const options = { rng: this.#rng, tearing: this.#tearing, isTimed: this.#isTimed }
    return new FakeDisk({ ...options, capacityBytes: this.#capacityBytes }, world)
  }

  #afterCrash(inode: Inode): Inode {
    const durable = copyContent(inode.durable)
    // Mostly all or nothing, as with an idle disk; sometimes any mixture.
    const style = this.#rng.below(4)
    for (const change of inode.pending) {
      if (style === 0) continue
      if (style === 1) durable.apply(change)
      else for (const page of pagesOf(change)) for (const part of this.#survivors(page)) durable.apply(part)
    }
    return { cached: copyContent(durable), durable, pending: [] }
  }

  #survivors(change: Change): Change[] {
    if (change.kind === 'truncate' || this.#tearing === 'none') return this.#rng.float() < 0.5 ? [change] : []
    const unit = this.#tearing === 'sector' ? SECTOR_BYTES : 1 + this.#rng.below(SECTOR_BYTES)
    const parts: Change[] = []
    const end = change.position + change.bytes.length
    const keep = this.#rng.float()
    for (let at = change.position; at < end; ) {
      const next = Math.min(end, (Math.floor(at / unit) + 1) * unit)
      if (this.#rng.float() < keep) {
        const bytes = change.bytes.subarray(at - change.position, next - change.position)
        parts.push({ kind: 'write', position: at, bytes })
      }
      at = next
    }
    return parts
  }

  // Calls settle on a later turn of the microtask queue, a random few, so that their order varies with the seed.
  async #pass(): Promise<void> {
    if (!this.#isTimed) for (let hops = this.#rng.below(4); hops >= 0; hops--) await undefined
    if (this.#dead) throw systemError('EIO', 'the machine is down')
  }

  #find(path: string): Inode {
    const inode = this.#folder(path)?.cached.get(nameOf(path))
    if (inode === undefined) throw systemError('ENOENT', path)
    return inode
  }

  #folder(path: string): Folder | undefined {
    return this.#world.folders.get(parentOf(path))
  }

  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    await this.#pass()
    const folder = this.#folder(path)
    let inode = folder?.cached.get(nameOf(path))
    if (inode === undefined) {
      if (mode !== 'write' || folder === undefined) throw systemError('ENOENT', path)
      inode = { cached: new Content(), durable: new Content(), pending: [] }
      folder.cached.set(nameOf(path), inode)
      folder.pending.push({ kind: 'link', name: nameOf(path), inode })
    }
    return this.#handle(inode, mode)
  }

  #handle(inode: Inode, mode: OpenMode): DiskFile {
    const change = (next: Change): void => {
      inode.cached.apply(next)
      inode.pending.push(next)
    }
    return {
      writev: async (buffers, position) => {
        await this.#pass()
        this.#write(inode, buffers, position, change)
        if (mode === 'durable') await this.#datasync(inode)
      },
      read: async (target, targetOffset, length, position) => {
        await this.#pass()
        const { cached } = inode
        const count = Math.max(0, Math.min(length, cached.sizeBytes - position))
        target.set(cached.bytes.subarray(position, position + count), targetOffset)
        this.reads++
        this.readBytes += count
        return count
      },
      datasync: () => this.#datasync(inode),
      truncate: async sizeBytes => {
        await this.#pass()
        change({ kind: 'truncate', sizeBytes })
      },
      sizeBytes: async () => {
        await this.#pass()
        return inode.cached.sizeBytes
      },
      close: async () => {},
    }
  }

  #write(
    inode: Inode,
    buffers: readonly Uint8Array[],
    position: number,
    change: (next: Change) => void,
  ): void {
    let at = position
    let room =
      this.#capacityBytes === Number.POSITIVE_INFINITY
        ? this.#capacityBytes
        : this.#capacityBytes - this.usedBytes()
    for (const buffer of buffers) {
      const grows = Math.max(0, at + buffer.length - Math.max(at, inode.cached.sizeBytes))
      if (grows > room) {
        // What fits is written, as a short write before ENOSPC would.
        const fits = buffer.length - (grows - Math.max(0, room))
        if (fits > 0) change({ kind: 'write', position: at, bytes: copyOf(buffer, 0, fits) })
        throw systemError('ENOSPC', 'no space left on device')
      }
      room -= grows
      if (buffer.length > 0) change({ kind: 'write', position: at, bytes: copyOf(buffer, 0, buffer.length) })
      at += buffer.length
    }
  }

  async #datasync(inode: Inode): Promise<void> {
    const covered = this.#isTimed ? null : new Set(inode.pending)
    await this.#pass()
    // Some syncs take long, so that much else happens meanwhile.
    if (!this.#isTimed && this.#rng.below(16) === 0)
      for (let hops = this.#rng.below(600); hops > 0; hops--) await undefined
    // What ended meanwhile hears of no success: the disk that survived it lacks these changes.
    if (this.#dead) throw systemError('EIO', 'the machine is down')
    if (this.#gate !== undefined) {
      this.heldSyncs++
      await this.#gate
      this.heldSyncs--
      await this.#pass()
    }
    const changes = covered === null ? inode.pending : inode.pending.filter(change => covered.has(change))
    inode.pending = covered === null ? [] : inode.pending.filter(change => !covered.has(change))
    if (this.#failSyncs > 0) {
      this.#failSyncs--
      // As Linux does: the pages are marked clean, some of them written, and a later sync knows nothing of it.
      for (const change of changes.flatMap(pagesOf)) if (this.#rng.float() < 0.5) inode.durable.apply(change)
      throw systemError('EIO', 'fdatasync failed')
    }
    for (const change of changes) inode.durable.apply(change)
    this.syncs++
  }

  async mkdir(path: string): Promise<void> {
    await this.#pass()
    const parts = path.split('/')
    for (let count = 1; count <= parts.length; count++) {
      const folder = parts.slice(0, count).join('/')
      if (!this.#world.folders.has(folder)) {
        this.#world.folders.set(folder, { cached: new Map(), durable: new Map(), pending: [] })
      }
    }
  }

  async list(path: string): Promise<string[]> {
    await this.#pass()
    const names = [...(this.#world.folders.get(path)?.cached.keys() ?? [])]
    for (const folder of this.#world.folders.keys()) if (parentOf(folder) === path) names.push(nameOf(folder))
    return names.sort()
  }

  async exists(path: string): Promise<boolean> {
    await this.#pass()
    return this.#world.folders.has(path) || this.#folder(path)?.cached.has(nameOf(path)) === true
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#pass()
    const inode = this.#find(from)
    const folder = this.#folder(from)
    if (folder === undefined || parentOf(from) !== parentOf(to)) throw systemError('EXDEV', to)
    folder.cached.delete(nameOf(from))
    folder.cached.set(nameOf(to), inode)
    folder.pending.push({ kind: 'rename', from: nameOf(from), to: nameOf(to), inode })
  }

  async remove(path: string): Promise<void> {
    await this.#pass()
    const folder = this.#folder(path)
    if (folder?.cached.delete(nameOf(path)) === true)
      folder.pending.push({ kind: 'unlink', name: nameOf(path) })
    for (const other of [...this.#world.folders.keys()]) {
      if (other === path || other.startsWith(`${path}/`)) this.#world.folders.delete(other)
    }
  }

  async syncDir(path: string): Promise<void> {
    await this.#pass()
    const folder = this.#world.folders.get(path)
    if (folder === undefined) throw systemError('ENOENT', path)
    folder.durable = new Map(folder.cached)
    folder.pending = []
    this.syncs++
  }

  async readFile(path: string): Promise<Uint8Array> {
    await this.#pass()
    return this.contentOf(path)
  }

  async replaceFile(path: string, content: Uint8Array): Promise<void> {
    const beside = `${path}.new`
    const file = await this.open(beside, 'write')
    await file.truncate(0)
    await file.writev([content], 0)
    await file.datasync()
    await this.rename(beside, path)
    await this.syncDir(parentOf(path))
  }

  async space(_path: string): Promise<{ freeBytes: number; totalBytes: number }> {
    await this.#pass()
    const totalBytes = Math.min(this.#capacityBytes, 2 ** 40)
    return { freeBytes: Math.max(0, totalBytes - this.usedBytes()), totalBytes }
  }

  async lock(path: string): Promise<() => Promise<void>> {
    await this.#pass()
    if (this.#world.locks.has(path)) {
      throw new TributaryError('directory_in_use', `${path} is in use by process 1: stop it`)
    }
    this.#world.locks.add(path)
    return async () => {
      this.#world.locks.delete(path)
    }
  }
}

/** Page by page: the kernel writes pages back in any order. */
function pagesOf(change: Change): Change[] {
  if (change.kind === 'truncate') return [change]
  const { position, bytes } = change
  const pages: Change[] = []
  for (let from = 0; from < bytes.length; ) {
    const to = Math.min(
      bytes.length,
      (Math.floor((position + from) / BLOCK_BYTES) + 1) * BLOCK_BYTES - position,
    )
    pages.push({ kind: 'write', position: position + from, bytes: bytes.subarray(from, to) })
    from = to
  }
  return pages
}

function applyEntry(entries: Map<string, Inode>, change: Entry): void {
  if (change.kind === 'link') entries.set(change.name, change.inode)
  else if (change.kind === 'unlink') entries.delete(change.name)
  else {
    entries.delete(change.from)
    entries.set(change.to, change.inode)
  }
}

// Buffer.slice would be a view of what the caller goes on to change.
function copyOf(bytes: Uint8Array, from: number, to: number): Uint8Array {
  return new Uint8Array(bytes.subarray(from, to))
}

function copyContent(content: Content): Content {
  const copy = new Content()
  copy.bytes = content.bytes.slice(0, content.sizeBytes)
  copy.sizeBytes = content.sizeBytes
  return copy
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'))
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

function systemError(code: string, message: string): Error {
  return Object.assign(new Error(`${code}: ${message}`), { code })
}
