/**
 * The outside world as interfaces: time, randomness, disk, network, compression. Shells take an `Env`;
 * pure files take none of it, only values. `env-node.ts` has the real ones (used by mains only), tests
 * and the simulator have fakes driven by one seed.
 */

/** A pending timer; `cancel` is idempotent. */
export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Wall clock, milliseconds since the epoch; may jump either way. */
  nowMs(): number
  /** Never goes back; unrelated to the epoch. Fractions of a millisecond count. */
  monotonicMs(): number
  /** Runs `callback` once after `delayMs`. Keeps the process alive meanwhile only where told to, as what a caller waits for must. */
  setTimer(callback: () => void, delayMs: number, keepAlive?: boolean): Timer
  /** Runs `callback` soon, after pending I/O callbacks (setImmediate). */
  soon(callback: () => void): void
}

export interface Rng {
  /** Uniform in [0, 1). */
  float(): number
  /** Uniform integer in [0, bound), bound <= 2^53. */
  below(bound: number): number
  /** `count` random bytes. */
  bytes(count: number): Uint8Array
}

/**
 * How `Disk.open` treats a file: `read` and `update` must exist; `write` is created if missing and kept if there. `read` can't be
 * written. `durable` is `write` where each `writev` is durable when it resolves (O_DSYNC): what it writes needs no `datasync`, and
 * a failure is final for the file's content as one of `datasync` is.
 */
export type OpenMode = 'read' | 'update' | 'write' | 'durable'

/** An open file. Writes are positional. Errors are Node system errors (`ENOSPC`, `EIO`). */
export interface DiskFile {
  /** Writes all of `buffers` at `position`, retrying short writes. */
  writev(buffers: readonly Uint8Array[], position: number): Promise<void>
  /** Reads up to `length` bytes at `position` into `target` at `targetOffset`; resolves with the count, 0 at the end. */
  read(target: Uint8Array, targetOffset: number, length: number, position: number): Promise<number>
  /** fdatasync: what was written before the call is durable when it resolves. A failure is final for the file's content. */
  datasync(): Promise<void>
  truncate(sizeBytes: number): Promise<void>
  sizeBytes(): Promise<number>
  close(): Promise<void>
}

export interface Disk {
  open(path: string, mode: OpenMode): Promise<DiskFile>
  /** Creates the folder and its parents, durably. */
  mkdir(path: string): Promise<void>
  /** Names in the folder, sorted; empty where it does not exist. */
  list(path: string): Promise<string[]>
  exists(path: string): Promise<boolean>
  rename(from: string, to: string): Promise<void>
  /** Removes a file, or a folder with all below it; nothing where it does not exist. */
  remove(path: string): Promise<void>
  /** fsync of a folder: creations, renames and removals in it are durable when it resolves. */
  syncDir(path: string): Promise<void>
  readFile(path: string): Promise<Uint8Array>
  /** Writes beside it, fsyncs, renames over `path`, fsyncs the folder: old or new content after a crash, never a mix. */
  replaceFile(path: string, content: Uint8Array): Promise<void>
  /** Free and total bytes of the filesystem that holds `path`. */
  space(path: string): Promise<{ freeBytes: number; totalBytes: number }>
  /** Takes the lock of a folder for this process; `directory_in_use` names the holder if it is taken. */
  lock(path: string): Promise<() => Promise<void>>
}

/** zstd and gzip off the event loop. Other Kafka codecs are validated but never produced by us. */
export interface Codec {
  compress(kind: 'gzip' | 'zstd', data: Uint8Array): Promise<Uint8Array>
  /** Rejects with `corrupt_batch` where the result would exceed `maxBytes`. */
  decompress(kind: 'gzip' | 'zstd', data: Uint8Array, maxBytes: number): Promise<Uint8Array>
}

/** Why a link ended. `code` is the WebSocket close code (1006 where the connection just broke). */
export interface LinkClosed {
  code: number
  reason: string
}

/** What the owner of a link is told; set once, synchronously, when the link is handed over. */
export interface LinkHandlers {
  message(data: Uint8Array): void
  /** `bufferedBytes()` fell below the low-water mark after `send` returned false. */
  drain(): void
  close(closed: LinkClosed): void
}

/** A message connection (a WebSocket, or the simulator's). Messages arrive whole and in order, or the link closes. */
export interface Link {
  /** Remote address, for logs. */
  readonly remote: string
  /** No handler is called before this has returned. */
  handle(handlers: LinkHandlers): void
  /** Queues one binary message; false when `bufferedBytes()` is over the high-water mark: wait for `drain`. */
  send(data: Uint8Array): boolean
  bufferedBytes(): number
  /** Stops and resumes reading, so that TCP pushes back on the sender. */
  pause(): void
  resume(): void
  /** Closes in order: queued messages go out first. */
  close(code: number, reason: string): void
  /** Ends at once. */
  terminate(): void
}

export interface DialOptions {
  /** PEM of the certificate authorities trusted for `wss:`; the system's where absent. */
  caPem?: string
  /** Sent as `Authorization: Bearer`. */
  token?: string
  /** The dialler's own certificate and its key in PEM, where the other end asks for one (mutual TLS). */
  identity?: { certPem: string; keyPem: string }
  /**
   * Nothing stands between the ends that could take frames for HTTP (RFC 6455, 10.3): they go out under the mask of zeros, which
   * costs neither a copy nor a pass over the bytes.
   */
  unmasked?: boolean
  maxFrameBytes: number
  connectTimeoutMs: number
}

export interface Net {
  /**
   * Opens a WebSocket to `url`; rejects with `not_available`, `unauthorized` or `timeout`. The cause has the code ECONNREFUSED where
   * nothing listens there.
   */
  dial(url: string, options: DialOptions): Promise<Link>
}

export interface Env {
  clock: Clock
  rng: Rng
  disk: Disk
  net: Net
  codec: Codec
}
