/** Child processes of the demo and the chaos runs: real `tributary` processes, killed and started again. */

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { TributaryError } from '../common/errors.ts'

/** The last of a child's stderr kept for error messages. */
const MAX_STDERR_CHARS = 16_384
const READY_POLL_MS = 25

export interface ChildOptions {
  /** For messages: `hub`, `edge`. */
  name: string
  /** The command's script, run by this process's own Node. */
  script: string
  args: readonly string[]
  /** Runs Node under this program with these arguments before it (strace). */
  wrapper?: readonly [program: string, ...args: string[]]
  /** Answers 200 once the process serves. */
  readyUrl: string
  readyTimeoutMs: number
  env?: NodeJS.ProcessEnv
}

/** A process that can be killed and started again with the same arguments. */
export interface Child {
  readonly name: string
  /** Undefined while it is down. */
  pid(): number | undefined
  /** Starts it and waits until `readyUrl` answers 200; rejects with what it printed when it ends before. */
  start(): Promise<void>
  /** kill -9, resolved once it is gone. */
  kill(): Promise<void>
  /** SIGTERM, resolved with the exit code; kill -9 after `timeoutMs`. */
  stop(timeoutMs: number): Promise<number | null>
  /** Sends a signal, such as SIGSTOP, to the process if it is up. */
  signal(name: NodeJS.Signals): void
  /** The last of what it printed to stderr, all starts together. */
  stderr(): string
}

export function createChild(options: ChildOptions): Child {
  let child: ChildProcess | undefined
  let stderr = ''
  let expectedEnd = false

  const running = (): ChildProcess | undefined =>
    child !== undefined && child.exitCode === null && child.signalCode === null ? child : undefined

  const end = async (signal: NodeJS.Signals): Promise<ChildProcess | undefined> => {
    const current = running()
    if (current === undefined) return child
    expectedEnd = true
    const exited = once(current, 'exit')
    signalGroup(current, signal)
    await exited
    return current
  }

  const start = async (): Promise<void> => {
    expectedEnd = false
    const [program, ...args] =
      options.wrapper === undefined ? [process.execPath] : [...options.wrapper, process.execPath]
    const started = spawn(program, [...args, options.script, ...options.args], {
      stdio: ['ignore', 'ignore', 'pipe'],
      // A group of its own: Ctrl-C on the terminal reaches the demo alone, which then stops its children in order.
      detached: true,
      env: options.env ?? process.env,
    })
    child = started
    endWithUs(started)
    started.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-MAX_STDERR_CHARS)
    })
    const deadline = performance.now() + options.readyTimeoutMs
    while (!(await answers(options.readyUrl))) {
      if (expectedEnd) return
      if (running() === undefined)
        throw new TributaryError('not_available', `${options.name} ended before it was ready:\n${stderr}`)
      if (performance.now() > deadline)
        throw new TributaryError(
          'timeout',
          `${options.name} was not ready within ${options.readyTimeoutMs} ms:\n${stderr}`,
        )
      await sleep(READY_POLL_MS)
    }
  }

  return {
    name: options.name,
    pid: () => running()?.pid,
    start,
    kill: async () => {
      await end('SIGKILL')
    },
    stop: async timeoutMs => {
      const timer = setTimeout(() => signalGroup(running(), 'SIGKILL'), timeoutMs)
      const ended = await end('SIGTERM')
      clearTimeout(timer)
      return ended?.exitCode ?? null
    },
    signal: name => signalGroup(running(), name),
    stderr: () => stderr,
  }
}

const children = new Set<ChildProcess>()

/** Children must not outlive this process, however it ends. */
function endWithUs(child: ChildProcess): void {
  if (children.size === 0) process.once('exit', endAll)
  children.add(child)
  child.once('exit', () => {
    children.delete(child)
    if (children.size === 0) process.removeListener('exit', endAll)
  })
}

function endAll(): void {
  for (const child of children) signalGroup(child, 'SIGKILL')
}

/** The child leads a group: what it runs under (a wrapper) and the process itself get the signal alike. */
function signalGroup(child: ChildProcess | undefined, signal: NodeJS.Signals): void {
  if (child?.pid !== undefined) process.kill(-child.pid, signal)
}

async function answers(url: string): Promise<boolean> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(2_000) })
    await response.arrayBuffer()
    return response.ok
  } catch {
    return false
  }
}

/** `count` TCP ports on 127.0.0.1 that nobody listens on now, all different. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer())
  const ports: number[] = []
  for (const server of servers) {
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const address = server.address()
    if (address !== null && typeof address === 'object') ports.push(address.port)
  }
  await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))))
  return ports
}
