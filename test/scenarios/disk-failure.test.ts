/** The real processes on a disk whose fdatasync fails: no ack, an orderly word, and the exit code that makes a supervisor look. */

import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { connectRaw } from '../edge/mqtt/harness.ts'
import { runCli, startCli, waitForLine } from '../run-cli.ts'

let directory: string
const running: ChildProcess[] = []
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tributary-eio-'))
})
afterEach(() => {
  for (const child of running.splice(0)) child.kill('SIGKILL')
  rmSync(directory, { recursive: true, force: true })
})

const preload = new URL('failing-fdatasync.ts', import.meta.url).href

/** Starts a process whose fdatasync fails once `fail` was called; `ended` has its exit code and all it logged. */
async function startOnFailingDisk(args: string[], ready: RegExp) {
  const trigger = join(directory, 'fail')
  const env = { NODE_OPTIONS: `--import ${preload}`, FAIL_FDATASYNC_WHEN: trigger }
  const child = startCli(args, env)
  running.push(child)
  let stderr = ''
  child.stderr?.on('data', (text: string) => {
    stderr += text
  })
  const match = await waitForLine(child, ready)
  const closed = once(child, 'close')
  const ended = async () => {
    await closed
    return { code: child.exitCode, last: stderr.trimEnd().split('\n').at(-1), stderr }
  }
  return { address: match[1] ?? '', fail: () => writeFileSync(trigger, ''), ended }
}

async function startHub(args: string[]): Promise<string> {
  const child = startCli(['hub', '--http', '127.0.0.1:0', ...args])
  running.push(child)
  return (await waitForLine(child, /"http":"([\d.:]+)".*the hub is ready/))[1] ?? ''
}

test('the hub', async () => {
  const data = join(directory, 'hub')
  const hub = await startOnFailingDisk(
    ['hub', '--data', data, '--http', '127.0.0.1:0'],
    /"http":"([\d.:]+)".*the hub is ready/,
  )
  const at = ['--hub', `ws://${hub.address}`]
  await runCli(['topics', 'create', 't', '--partitions', '1', ...at])
  expect((await runCli(['produce', 't', ...at], { input: 'kept\n' })).code).toBe(0)
  hub.fail()
  const refused = await fetch(`http://${hub.address}/v1/topics/t/records`, {
    method: 'POST',
    headers: { 'content-type': 'text/plain' },
    body: 'lost',
  })
  expect(refused.status).toBe(503)
  const { code, last, stderr } = await hub.ended()
  expect(code).toBe(1)
  expect(last).toMatch(/^error: .*hub could not be made durable \(EIO.*restart/)
  expect(stderr).not.toMatch(/^ {4}at /m)
  const again = await startHub(['--data', data])
  const { stdout } = await runCli(['consume', 't', '--hub', `ws://${again}`, '--format', 'value'])
  expect(stdout).toMatch(/^kept\n(lost\n)?$/)
})

test('the edge', async () => {
  const args = ['--data', join(directory, 'edge'), '--mqtt', '127.0.0.1:0', '--http', '127.0.0.1:0']
  const edge = await startOnFailingDisk(
    ['edge', ...args, '--hub', 'ws://127.0.0.1:9'],
    /"mqtt":"[\d.]+:(\d+)".*the edge is ready/,
  )
  const client = await connectRaw(Number(edge.address), 'a')
  const beside = await connectRaw(Number(edge.address), 'b')
  client.publish('n/1', 'kept', 1, 1)
  expect(await client.expect(2)).toEqual(['connack 0', 'puback 1'])
  edge.fail()
  client.publish('n/1', 'lost', 2, 2)
  await client.expectClosed()
  await beside.expectClosed()
  expect(client.received).toEqual(['connack 0', 'puback 1'])
  const { code, last, stderr } = await edge.ended()
  expect(code).toBe(1)
  expect(last).toMatch(/^error: .*edge could not be made durable \(EIO.*restart/)
  expect(stderr).not.toMatch(/^ {4}at /m)
})
