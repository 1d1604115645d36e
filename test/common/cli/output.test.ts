import { Writable } from 'node:stream'
import { pino } from 'pino'
import { describe, expect, test } from 'vitest'
import { runDaemon } from '../../../common/cli/daemon.ts'
import { createLineCutter, MAX_LINE_BYTES } from '../../../common/cli/lines.ts'
import { createOutput, printTable, showDuration, showSize } from '../../../common/cli/output.ts'
import type { Timer } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const texts = (lines: readonly Uint8Array[]): string[] =>
  lines.map(line => Buffer.from(line).toString('latin1'))

describe('lines', () => {
  test('are cut wherever chunks end, and keep their bytes', () => {
    const input = 'a\n\nbc\r\n\xff\xfe\nlast'
    for (let size = 1; size <= input.length; size++) {
      const cutter = createLineCutter()
      const lines: string[] = []
      const raw = Buffer.from(input, 'latin1')
      for (let at = 0; at < raw.length; at += size)
        lines.push(...texts(cutter.cut(raw.subarray(at, at + size))))
      expect(lines).toEqual(['a', '', 'bc\r', '\xff\xfe'])
      expect(texts([cutter.rest() ?? bytes('none')])).toEqual(['last'])
    }
  })

  test('have no rest after a line end', () => {
    const cutter = createLineCutter()
    expect(texts(cutter.cut(bytes('a\n')))).toEqual(['a'])
    expect(cutter.rest()).toBeNull()
  })

  test('are bounded', () => {
    const cutter = createLineCutter()
    cutter.cut(bytes('one\n'))
    cutter.cut(new Uint8Array(MAX_LINE_BYTES))
    expect(() => cutter.cut(bytes('x'))).toThrow('line 2 of the input is longer than')
  })
})

/** A reader that takes nothing until told to. */
function slowStream(highWaterMark: number) {
  const chunks: string[] = []
  let release: (() => void) | undefined
  const stream = new Writable({
    highWaterMark,
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk.toString())
      release = done
    },
  })
  return { stream, chunks, release: () => release?.() }
}

/** `soon` runs when the test says so. */
function manualClock() {
  const waiting: (() => void)[] = []
  return {
    clock: { soon: (run: () => void) => void waiting.push(run) },
    run: () => waiting.splice(0).map(each => each()),
  }
}

describe('output', () => {
  test('of one turn is one write', async () => {
    const { stream, chunks } = slowStream(1_000)
    const { clock, run } = manualClock()
    const output = createOutput(stream, clock)
    expect(output.write('a\n')).toBeUndefined()
    expect(output.write(bytes('b\n'))).toBeUndefined()
    expect(chunks).toEqual([])
    run()
    expect(chunks).toEqual(['a\nb\n'])
  })

  test('waits for a slow reader instead of piling up', async () => {
    const { stream, chunks, release } = slowStream(10)
    const { clock } = manualClock()
    const output = createOutput(stream, clock)
    const full = output.write('x'.repeat(70_000))
    expect(full).toBeInstanceOf(Promise)
    let resumed = false
    const waited = full?.then(() => {
      resumed = true
    })
    await new Promise(resolve => setImmediate(resolve))
    expect(resumed).toBe(false)
    expect(chunks).toHaveLength(1)
    release()
    await waited
    expect(resumed).toBe(true)
  })

  test('tables line up, numbers to the right', async () => {
    const { stream, chunks } = slowStream(1_000)
    await printTable(
      stream,
      ['topic', 'lag'],
      [
        ['telemetry', 5],
        ['a', 12_345],
      ],
    )
    expect(chunks.join('').split('\n')).toEqual([
      'topic        lag',
      'telemetry      5',
      'a          12345',
      '',
    ])
  })
})

describe('a daemon', () => {
  const log = pino({ level: 'silent' })
  const never = new Promise<TributaryError>(() => undefined)
  const clockThat = (runsAtOnce: boolean) => ({
    nowMs: () => 0,
    monotonicMs: () => 0,
    soon: (run: () => void) => void setImmediate(run),
    setTimer: (run: () => void): Timer => {
      if (runsAtOnce) setImmediate(run)
      return { cancel: () => undefined }
    },
  })

  test('is closed when told to stop, also while it starts', async () => {
    for (const early of [true, false]) {
      const stop = new AbortController()
      let closed = 0
      const start = async () => {
        if (early) stop.abort()
        else setImmediate(() => stop.abort())
        return { failed: never, close: async () => void closed++ }
      }
      await runDaemon(start, stop.signal, clockThat(false), log)
      expect(closed).toBe(1)
    }
  })

  test('that fails is closed and its failure thrown, even where closing fails or hangs', async () => {
    const failure = new TributaryError('disk_failed', 'fdatasync failed')
    for (const close of [
      async () => undefined,
      () => Promise.reject(new Error('no')),
      () => new Promise<void>(() => {}),
    ]) {
      const start = async () => ({ failed: Promise.resolve(failure), close })
      await expect(runDaemon(start, new AbortController().signal, clockThat(true), log)).rejects.toBe(failure)
    }
  })
})

test('sizes and durations are rounded to what people read', () => {
  expect([0, 639, 1536, 10 * 2 ** 30].map(showSize)).toEqual(['0 bytes', '639 bytes', '1.5 KiB', '10.0 GiB'])
  const durations = [0, 999, 42_900, 61_000, 3_600_000, 90_061_000]
  expect(durations.map(showDuration)).toEqual(['0s', '0s', '42s', '1m 1s', '1h', '1d 1h'])
})
