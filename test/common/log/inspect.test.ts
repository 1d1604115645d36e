import { expect, test } from 'vitest'
import { nodeCodec } from '../../../common/compression.ts'
import { dumpDirectory, verifyDirectory } from '../../../common/log/inspect.ts'
import { repairDirectory } from '../../../common/log/repair-directory.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { DIRECTORY, Model } from './model.ts'

async function filled(): Promise<Model> {
  const model = new Model(5, 'sector')
  await model.open()
  for (let at = 0; at < 20; at++) {
    model.appendTurn([0, 1, 2], 900, [at])
    await model.settle()
  }
  return model
}

test('a sound directory verifies, closed or crashed', async () => {
  const model = await filled()
  const ends = model.logs.map(({ log }) => log?.endOffset())
  await model.close()
  const report = await verifyDirectory(model.disk, DIRECTORY)
  expect(report.findings).toEqual([])
  expect(report.cleanShutdown).toBe(true)
  expect(report.logs.filter(log => !log.name.startsWith('session')).map(log => log.endOffset)).toEqual(ends)
  await model.open()
  model.appendTurn([0], 500, [])
  await model.settle()
  await model.crash('crash')
  const crashed = await verifyDirectory(model.disk, DIRECTORY)
  expect(crashed.findings.filter(({ kind }) => kind === 'damage')).toEqual([])
})

test('damage and wrong indexes are found, and repair rebuilds the indexes', async () => {
  const model = await filled()
  await model.close()
  const folder = `${DIRECTORY}/logs/alpha`
  const bases = model.disk
    .paths()
    .filter(path => path.startsWith(folder) && path.endsWith('.log'))
    .sort()
  const index = model.disk.paths().find(path => path.startsWith(folder) && path.endsWith('.index'))
  const [first] = bases
  if (first === undefined || index === undefined) throw new Error('nothing was written')
  model.disk.flipBit(first, 200, 4)
  model.disk.flipBit(index, 7, 0)
  const report = await verifyDirectory(model.disk, DIRECTORY)
  expect(report.findings.map(({ kind }) => kind)).toEqual(expect.arrayContaining(['damage', 'index']))
  const env = { disk: model.disk, clock: new FakeClock(), rng: seededRng(1) }
  const { damage } = await repairDirectory(env, DIRECTORY)
  expect(damage.map(({ log, segment }) => [log, segment])).toEqual([['alpha', first]])
  expect(model.disk.paths().filter(path => path.includes('/aside/')).length).toBe(1)
  // Known from now on: reads pass over it.
  expect((await repairDirectory(env, DIRECTORY)).damage).toEqual(damage)
  await model.open(false)
  const log = model.logs[0]?.log
  expect(log?.damage()).toEqual(damage)
  expect((await log?.read(damage[0]?.fromOffset ?? 0, 1))?.nextOffset).toBe(damage[0]?.toOffset)
  await model.close()
  const after = await verifyDirectory(model.disk, DIRECTORY)
  expect(after.findings.filter(({ kind }) => kind === 'index')).toEqual([])
  expect(after.findings.filter(({ kind }) => kind === 'damage').length).toBeGreaterThan(0)
})

test('dump writes a line per batch and record, goes on past damage, and knows no other log', async () => {
  const model = await filled()
  await model.close()
  const lines: string[] = []
  const write = (line: string): undefined => {
    lines.push(line)
  }
  await dumpDirectory(model.disk, DIRECTORY, { log: 'alpha', records: true, codec: nodeCodec() }, write)
  expect(lines.filter(line => line.startsWith('log '))).toEqual([
    `log alpha start 0 end ${model.logs[0]?.log?.endOffset()}`,
  ])
  expect(lines.filter(line => /^ {2}\d/.test(line)).length).toBe(model.logs[0]?.entries.length)
  expect(lines.some(line => line.includes('key "alpha:1"'))).toBe(true)
  const options = { log: 'nope', records: false, codec: nodeCodec() }
  await expect(dumpDirectory(model.disk, DIRECTORY, options, write)).rejects.toMatchObject({
    code: 'not_found',
  })
  await expect(verifyDirectory(model.disk, 'elsewhere')).rejects.toMatchObject({ code: 'not_found' })
})

test('dump has after a kill what only the journal holds yet, once', async () => {
  const model = await filled()
  await model.close()
  await model.open()
  for (let at = 0; at < 2; at++) {
    model.appendTurn([0], 200, [])
    await model.settle()
  }
  const { entries, log } = model.logs[0] ?? {}
  const end = log?.endOffset() ?? 0
  await model.crash('kill')
  const lines: string[] = []
  await dumpDirectory(model.disk, DIRECTORY, { log: 'alpha', records: false, codec: nodeCodec() }, line => {
    lines.push(line)
  })
  expect(lines.filter(line => line.startsWith('journal ')).length).toBeGreaterThan(0)
  const batches = lines.filter(line => /^ {2}\d/.test(line))
  expect(batches.length).toBe(entries?.length)
  expect(batches.at(-1)).toMatch(new RegExp(`^ {2}\\d+\\.\\.${end - 1} `))
})
