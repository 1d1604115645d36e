import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { csvDevices, parseRow } from '../../demo/csv.ts'

let directory = ''
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'tributary-csv-'))
})
afterEach(() => rm(directory, { recursive: true }))

test('times without a zone are UTC, whatever the machine thinks', () => {
  expect(parseRow('2014-04-01 12:00:00,1.5', 'f:1')).toEqual({ timeMs: Date.UTC(2014, 3, 1, 12), value: 1.5 })
  expect(parseRow('2014-04-01T12:00:00Z,1.5', 'f:1')?.timeMs).toBe(Date.UTC(2014, 3, 1, 12))
  expect(parseRow('2014-04-01T12:00:00+02:00,1.5', 'f:1')?.timeMs).toBe(Date.UTC(2014, 3, 1, 10))
})

test('a header and empty lines are passed over, anything else is an error that names its place', () => {
  expect(parseRow('timestamp,value', 'f:1')).toBeNull()
  expect(parseRow('', 'f:2')).toBeNull()
  for (const line of ['yesterday,1', '2014-04-01 12:00:00,warm', '2014-04-01 12:00:00'])
    expect(() => parseRow(line, 'f:3')).toThrow(`f:3: expected "timestamp,value", got "${line}"`)
})

test('one device a file, readings in the order of the file, also where time steps back', async () => {
  await writeFile(join(directory, 'b.csv'), 'timestamp,value\n2014-01-01 00:00:02,2\n2014-01-01 00:00:01,1\n')
  await writeFile(join(directory, 'a.csv'), '2014-01-01 00:00:00,7\n')
  await writeFile(join(directory, 'README.md'), 'not a device')
  const devices = await csvDevices(directory, null, new AbortController().signal)
  expect(devices.map(device => device.name)).toEqual(['a', 'b'])
  const values: number[] = []
  for (const device of devices) for await (const reading of device.readings) values.push(reading.value)
  expect(values).toEqual([7, 2, 1])
})

test('a missing or empty folder says so', async () => {
  await expect(csvDevices(join(directory, 'none'), null, new AbortController().signal)).rejects.toThrow(
    'cannot read --csv',
  )
  await expect(csvDevices(directory, null, new AbortController().signal)).rejects.toThrow('no .csv file')
})
