/** Runs the `tributary` command from source as a process of its own. */

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

const MAIN = join(import.meta.dirname, '../main.ts')

export interface CliRun {
  code: number | null
  stdout: string
  stderr: string
}

/** Starts it with pipes for its three streams. Variables of the test run's own Tributary settings are left out. */
export function startCli(args: readonly string[], env: Record<string, string> = {}): ChildProcess {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('TRIBUTARY_'))
  return spawn(process.execPath, [MAIN, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...Object.fromEntries(inherited), ...env },
  })
}

/** Runs it to its end. */
export async function runCli(
  args: readonly string[],
  options: { input?: string; env?: Record<string, string> } = {},
): Promise<CliRun> {
  const child = startCli(args, options.env)
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  // The command may end without reading its input.
  child.stdin?.on('error', () => undefined).end(options.input ?? '')
  const closed = once(child, 'close')
  await closed
  return { code: child.exitCode, stdout, stderr }
}

/** Resolves with the match in what it logs; rejects with all of it when it ends before. Later output is read and dropped. */
export async function waitForLine(child: ChildProcess, pattern: RegExp): Promise<RegExpExecArray> {
  let text = ''
  child.stderr?.setEncoding('utf8')
  return new Promise((resolve, reject) => {
    child.stderr?.on('data', (chunk: string) => {
      if (text.length < 100_000) text += chunk
      const match = pattern.exec(text)
      if (match !== null) resolve(match)
    })
    child.once('close', () => reject(new Error(`the process ended:\n${text}`)))
  })
}
