/** The commands against a real hub in a process of its own: what goes in by `produce` comes out by `consume`. */

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { TributaryClient } from '../common/client.ts'
import { connect } from '../common/client.ts'
import { nodeEnv } from '../common/env-node.ts'
import { runCli, startCli, waitForLine } from './run-cli.ts'

const directory = mkdtempSync(join(tmpdir(), 'tributary-main-hub-'))
const tokens = join(directory, 'tokens')
writeFileSync(tokens, '# for tests\ns3cret\nother\n')

/** A hub on a free port, by its ready line; resolves with its URL. */
async function startHubProcess(args: readonly string[]): Promise<{ child: ChildProcess; hub: string }> {
  const child = startCli(['hub', '--http', '127.0.0.1:0', ...args])
  const ready = await waitForLine(child, /"http":"([\d.:]+)".*the hub is ready/)
  return { child, hub: `ws://${ready[1]}` }
}

let hubProcess: ChildProcess
let hub: string
let sdk: TributaryClient

beforeAll(async () => {
  const started = await startHubProcess(['--data', join(directory, 'hub'), '--token-file', tokens])
  hubProcess = started.child
  hub = started.hub
  sdk = connect({ hub, token: 's3cret', env: nodeEnv() })
})

afterAll(async () => {
  await sdk.close()
  hubProcess.kill('SIGKILL')
})

const client = (...args: string[]) => [...args, '--hub', hub, '--token-file', tokens]
const run = (args: string[], input?: string) => runCli(client(...args), input === undefined ? {} : { input })

async function succeed(args: string[], input?: string): Promise<string> {
  const { code, stdout, stderr } = await run(args, input)
  expect(code, stderr).toBe(0)
  return stdout
}

function records(text: string): Record<string, unknown>[] {
  return text
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line))
}

describe('topics', () => {
  test('are created, listed, described, altered and deleted', async () => {
    await succeed(['topics', 'create', 'plant', '--partitions', '3', '--retention-ms', '7d'])
    expect(await succeed(['topics', 'list'])).toMatch(/^plant +3 +7d/m)
    expect(JSON.parse(await succeed(['topics', 'list', '--json']))).toEqual(
      expect.arrayContaining([expect.objectContaining({ name: 'plant', partitions: 3 })]),
    )
    const described: unknown = JSON.parse(await succeed(['topics', 'describe', 'plant', '--json']))
    expect(described).toMatchObject({
      name: 'plant',
      config: { retentionMs: 604_800_000 },
      partitions: [0, 1, 2].map(partition => ({ partition, startOffset: 0, endOffset: 0, highWatermark: 0 })),
    })
    await succeed(['topics', 'alter', 'plant', '--partitions', '4', '--retention-ms', 'off'])
    expect(await succeed(['topics', 'describe', 'plant'])).toMatch(/retention for ever[\s\S]*^ +3 +0 +0 +0/m)
    await succeed(['topics', 'delete', 'plant'])
    const gone = await run(['topics', 'describe', 'plant'])
    expect(gone.code).toBe(1)
    expect(gone.stderr).toMatch(/^error: .*plant.*\n$/)
  })

  test('that exist are not created again', async () => {
    await sdk.topics.create({ name: 'once', partitions: 1 })
    const again = await run(['topics', 'create', 'once'])
    expect(again).toMatchObject({ code: 1, stdout: '' })
    expect(again.stderr).toMatch(/^error: .*once.*\n$/)
  })
})

describe('produce and consume', () => {
  test('carry lines with keys, headers and bytes that are no text', async () => {
    await sdk.topics.create({ name: 'lines', partitions: 1 })
    await succeed(['produce', 'lines', '--key', 'k', '--header', 'host=web1'], 'one\n\nthree')
    await succeed(['produce', 'lines', '--key-separator', '::'], 'a::1\nb::2::3\n')
    expect(records(await succeed(['consume', 'lines']))).toEqual(
      [
        { key: 'k', value: 'one', headers: { host: 'web1' } },
        { key: 'k', value: '', headers: { host: 'web1' } },
        { key: 'k', value: 'three', headers: { host: 'web1' } },
        { key: 'a', value: '1', headers: {} },
        { key: 'b', value: '2::3', headers: {} },
      ].map((record, offset) => ({
        topic: 'lines',
        partition: 0,
        offset,
        timestamp: expect.any(Number),
        ...record,
      })),
    )
    expect(await succeed(['consume', 'lines', '--format', 'value'])).toBe('one\n\nthree\n1\n2::3\n')
    expect(await succeed(['consume', 'lines', '--format', 'raw'])).toBe('onethree12::3')
  })

  test('begin where they are told to and end at the end of the log', async () => {
    await sdk.topics.create({ name: 'places', partitions: 2 })
    await succeed(['produce', 'places', '--partition', '1'], 'a\nb\nc\n')
    await sdk.produce('places', { value: 'x', partition: 0 })
    const values = async (...args: string[]) =>
      (await succeed(['consume', 'places', '--format', 'value', ...args]))
        .split('\n')
        .filter(line => line !== '')
    const [all, oneFrom1, allFrom1, latest, byTime, future] = await Promise.all([
      values(),
      values('--partition', '1', '--from', '1'),
      values('--from', '1'),
      values('--from', 'latest'),
      values('--from', '2000-01-01', '--partition', '1', '--count', '2'),
      values('--from', '2900-01-01'),
    ])
    expect(all.sort()).toEqual(['a', 'b', 'c', 'x'])
    expect({ oneFrom1, allFrom1, latest, byTime, future }).toEqual({
      oneFrom1: ['b', 'c'],
      allFrom1: ['b', 'c'],
      latest: [],
      byTime: ['a', 'b'],
      future: [],
    })
    const beyond = await run(['consume', 'places', '--partition', '1', '--from', '9'])
    expect(beyond.code).toBe(1)
    expect(beyond.stderr).toMatch(/^error: .*\n$/)
  })

  test('keep the order of many lines', async () => {
    await sdk.topics.create({ name: 'many', partitions: 1 })
    const lines = Array.from({ length: 20_000 }, (_, index) => `line ${index}`).join('\n')
    expect(JSON.parse(await succeed(['produce', 'many', '--json'], lines))).toEqual({
      topic: 'many',
      records: 20_000,
    })
    expect(await succeed(['consume', 'many', '--format', 'value'])).toBe(`${lines}\n`)
  })

  test('a reader that has seen enough ends consume quietly', async () => {
    const [first = '', ...rest] = client('consume', 'many', '--follow')
    const command = [process.execPath, join(import.meta.dirname, '../main.ts'), first, ...rest]
    const quoted = command.map(word => `'${word}'`).join(' ')
    const shell = spawn('bash', ['-c', `set -o pipefail; ${quoted} | head -n 2`], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let stdout = ''
    let stderr = ''
    shell.stdout.on('data', (text: Buffer) => {
      stdout += text.toString()
    })
    shell.stderr.on('data', (text: Buffer) => {
      stderr += text.toString()
    })
    await once(shell, 'close')
    expect(records(stdout).map(record => record.offset)).toEqual([0, 1])
    expect({ code: shell.exitCode, stderr }).toEqual({ code: 0, stderr: '' })
  })

  test('--follow goes on with new records and ends at SIGINT with 0', async () => {
    await sdk.topics.create({ name: 'live', partitions: 1 })
    const follower = startCli(client('consume', 'live', '--follow', '--format', 'value'))
    const seen: string[] = []
    follower.stdout?.setEncoding('utf8')
    const closed = once(follower, 'close')
    await sdk.produce('live', { value: 'first' })
    for await (const text of follower.stdout ?? []) {
      seen.push(text)
      if (seen.join('') === 'first\n') await sdk.produce('live', { value: 'second' })
      if (seen.join('') === 'first\nsecond\n') follower.kill('SIGINT')
    }
    await closed
    expect(follower.exitCode).toBe(0)
    expect(seen.join('')).toBe('first\nsecond\n')
  })

  test('a second signal ends at once what waits for a hub that does not answer', async () => {
    await sdk.topics.create({ name: 'stuck', partitions: 1 })
    const producer = startCli(client('produce', 'stuck'))
    const closed = once(producer, 'close')
    producer.stdin?.write('first\n')
    const endOffset = async () => (await sdk.topics.describe('stuck')).partitions[0]?.endOffset
    await expect.poll(endOffset, { timeout: 20_000 }).toBe(1)
    hubProcess.kill('SIGSTOP')
    try {
      producer.stdin?.write('second\n')
      producer.kill('SIGINT')
      producer.kill('SIGTERM')
      await closed
    } finally {
      hubProcess.kill('SIGCONT')
    }
    expect([130, 143]).toContain(producer.exitCode)
  })

  test('of a topic that is not there say so', async () => {
    for (const args of [
      ['consume', 'nope'],
      ['produce', 'a b'],
    ]) {
      const { code, stdout, stderr } = await run(args, 'x\n')
      expect({ code, stdout }, args.join(' ')).toEqual({ code: 1, stdout: '' })
      expect(stderr).toMatch(/^error: .*\n$/)
    }
  })
})

describe('edges', () => {
  test('none are listed, and none is removed', async () => {
    expect(JSON.parse(await succeed(['edges', 'list', '--json']))).toEqual([])
    expect(await succeed(['edges', 'list'])).toMatch(/^edge +state/)
    expect((await run(['edges', 'remove', 'nobody'])).stderr).toMatch(/^error: .*nobody.*\n$/)
  })
})

describe('access', () => {
  test('a missing, wrong or unreadable token is refused in words', async () => {
    const wrong = join(directory, 'wrong')
    writeFileSync(wrong, 'wrong\n')
    for (const args of [
      ['topics', 'list', '--hub', hub],
      ['consume', 'many', '--hub', hub, '--token-file', wrong],
      ['produce', 'many', '--hub', hub, '--token-file', wrong],
    ]) {
      const { code, stdout, stderr } = await runCli(args, { input: 'x\n' })
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toMatch(/^error: .*token.*\n$/)
    }
  })
})

/** The log commands, on a directory that its process left by kill -9. */
async function inspect(data: string): Promise<void> {
  const [verified, dumped] = [
    await runCli(['log', 'verify', data, '--json']),
    await runCli(['log', 'dump', data, '--records']),
  ]
  expect(verified.stderr + dumped.stderr).toBe('')
  expect(JSON.parse(verified.stdout)).toMatchObject({ cleanShutdown: false, findings: [] })
  expect(dumped.stdout).toContain('value "a"')
  const repaired = await runCli(['log', 'repair', data])
  expect(repaired).toEqual({ code: 0, stdout: 'no acked record is lost\n', stderr: '' })
  expect((await runCli(['log', 'verify', data])).stdout).toContain('stopped in order; all is well')
  const none = await runCli(['log', 'verify', join(data, 'nothing')])
  expect(none.code).toBe(1)
  expect(none.stderr).toMatch(/^error: .* is no data directory.*\n$/)
}

describe('the hub process', () => {
  test('names the flag where its port is in use, and the directory where that is', async () => {
    const port = await runCli(['hub', '--http', hub.replace('ws://', ''), '--data', join(directory, 'other')])
    expect(port.code).toBe(1)
    expect(port.stderr).toMatch(/error: .*--http/)
    const data = await runCli(['hub', '--http', '127.0.0.1:0', '--data', join(directory, 'hub')])
    expect(data.code).toBe(1)
    expect(data.stderr).toMatch(/error: .*in use/)
  })

  test.runIf(process.platform === 'linux')('has the threads that files, DNS and zlib share', () => {
    const tasks = `/proc/${hubProcess.pid}/task`
    const names = readdirSync(tasks).map(task => readFileSync(join(tasks, task, 'comm'), 'utf8'))
    expect(names.filter(name => name.startsWith('libuv-worker'))).toHaveLength(16)
  })

  test('drains and exits 0 at SIGTERM, and what it took is there after', async () => {
    const data = join(directory, 'again')
    const first = await startHubProcess(['--data', data])
    await runCli(['topics', 'create', 'kept', '--hub', first.hub])
    expect((await runCli(['produce', 'kept', '--hub', first.hub], { input: 'a\n' })).stderr).toContain(
      '1 record',
    )
    const closed = once(first.child, 'close')
    first.child.kill('SIGTERM')
    await closed
    expect(first.child.exitCode).toBe(0)
    const second = await startHubProcess(['--data', data])
    const { stdout } = await runCli(['consume', 'kept', '--hub', second.hub, '--format', 'value'])
    expect(stdout).toBe('a\n')
    second.child.kill('SIGKILL')
    await once(second.child, 'close')
    await inspect(data)
  })
})
