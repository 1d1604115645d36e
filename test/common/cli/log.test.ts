import { PassThrough } from 'node:stream'
import { Command } from 'commander'
import { expect, test } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { utf8 } from '../../../common/bytes.ts'
import type { Cli } from '../../../common/cli/cli.ts'
import { addLogCommands } from '../../../common/cli/log.ts'
import { nodeEnv } from '../../../common/env-node.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, LOG_OPTIONS } from '../log/model.ts'

async function directory(disk: FakeDisk, path: string, texts: readonly string[]): Promise<void> {
  const dir = await openDataDir(path, DIR_OPTIONS, { clock: new FakeClock(), rng: seededRng(1), disk })
  const log = await dir.openLog('t/topic/0', LOG_OPTIONS)
  for (const text of texts)
    await log.append(buildBatch([{ key: null, value: utf8(text), headers: [], timestampMs: 1 }]))
  await dir.close()
}

/** Runs `tributary log ...` on a disk; the code of what it fails with. */
async function run(disk: FakeDisk, args: readonly string[]): Promise<{ code: string; out: string }> {
  const stdout = new PassThrough()
  const written: string[] = []
  stdout.on('data', chunk => written.push(`${chunk}`))
  const cli: Cli = {
    stdin: new PassThrough(),
    stdout,
    stderr: new PassThrough(),
    environment: {},
    env: async () => ({ ...nodeEnv(), disk }),
    logger: () => Promise.reject(new Error('nothing to log')),
    stopSignal: () => new AbortController().signal,
  }
  const program = new Command().exitOverride()
  addLogCommands(program, cli)
  let code = 'ok'
  try {
    await program.parseAsync(['log', ...args], { from: 'user' })
  } catch (error) {
    if (!isTributaryError(error)) throw error
    code = error.code
  }
  await new Promise(resolve => setImmediate(resolve))
  return { code, out: written.join('') }
}

test('log verify with several directories compares the replicas', async () => {
  const disk = new FakeDisk({ rng: seededRng(1) })
  await directory(disk, 'data/1', ['a', 'b', 'c'])
  await directory(disk, 'data/2', ['a', 'b'])
  const equal = await run(disk, ['verify', 'data/1', 'data/2'])
  expect(equal.code).toBe('ok')
  expect(equal.out).toMatch(/data\/1: all is well\ndata\/2: all is well\n/)
  expect(equal.out).toMatch(/t\/topic\/0 .*0\.\.3 0\.\.2 .*0\.\.2 .*2 .*equal/)
  await directory(disk, 'data/3', ['a', 'x', 'c'])
  const different = await run(disk, ['verify', 'data/1', 'data/2', 'data/3'])
  expect(different.code).toBe('corrupt_log')
  expect(different.out).toMatch(/differ at 1/)
  expect(different.out).toMatch(/t\/topic\/0 at 1: data\/3 has 1\.\.1 epoch 0 crc [0-9a-f]+ bytes \d+\n/)
  const json = await run(disk, ['verify', 'data/1', 'data/3', '--json'])
  expect(json.code).toBe('corrupt_log')
  expect(JSON.parse(json.out)).toMatchObject({
    directories: [{ directory: 'data/1', findings: [] }, { directory: 'data/3' }],
    comparisons: [{ name: 't/topic/0', fromOffset: 0, toOffset: 3, batches: 1, difference: { offset: 1 } }],
  })
})

test('log verify finds damage in any of the directories, log repair tells what it did', async () => {
  const disk = new FakeDisk({ rng: seededRng(1) })
  await directory(disk, 'data/1', ['a', 'b', 'c'])
  await directory(disk, 'data/2', ['a', 'b', 'c'])
  disk.flipBit('data/2/logs/t/topic/0/00000000000000000000.log', 100, 1)
  const damaged = await run(disk, ['verify', 'data/1', 'data/2'])
  expect(damaged.code).toBe('corrupt_log')
  expect(damaged.out).toMatch(
    /damage: data\/2\/logs\/t\/topic\/0\/0+\.log at byte \d+: offsets 1 to 2 are damaged/,
  )
  const repaired = await run(disk, ['repair', 'data/2'])
  expect(repaired.code).toBe('ok')
  expect(repaired.out).toMatch(/t\/topic\/0: offsets 1 to 2 are lost/)
})
