import { generate } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { encodeFrame } from '../../common/wire-codec.ts'
import { splitMqtt, webSocketSplitter } from './frames.ts'

test('MQTT packets are named and measured once they are whole', () => {
  const publish = generate({
    cmd: 'publish',
    topic: 'a',
    payload: Buffer.alloc(300),
    qos: 1,
    messageId: 1,
    dup: false,
    retain: false,
  })
  const puback = generate({ cmd: 'puback', messageId: 1 })
  expect(splitMqtt(Buffer.concat([publish, puback]))).toEqual({ kind: 'publish', sizeBytes: publish.length })
  expect(splitMqtt(puback)).toEqual({ kind: 'puback', sizeBytes: 4 })
  expect(splitMqtt(publish.subarray(0, 100))).toBeNull()
  expect(splitMqtt(publish.subarray(0, 1))).toBeNull()
})

test('WebSocket messages are named by their frame, masked or not, after the upgrade', () => {
  const payload = encodeFrame({ t: 'ack', log: 1, run: 2 ** 52, next: 3, committed: 3 })
  const plain = Buffer.concat([Buffer.from([0x82, payload.length]), payload])
  const mask = [1, 2, 3, 4]
  const masked = Buffer.concat([
    Buffer.from([0x82, 0x80 | payload.length, ...mask]),
    payload.map((byte, i) => byte ^ (mask[i & 3] ?? 0)),
  ])
  const split = webSocketSplitter()
  const upgrade = Buffer.from('HTTP/1.1 101 Switching Protocols\r\n\r\n')
  expect(split(Buffer.concat([upgrade, plain]))).toEqual({ kind: 'http', sizeBytes: upgrade.length })
  expect(split(plain)).toEqual({ kind: 'ack', sizeBytes: plain.length })
  expect(split(masked)).toEqual({ kind: 'ack', sizeBytes: masked.length })
  expect(split(plain.subarray(0, 5))).toBeNull()
  expect(split(Buffer.from([0x89, 0]))).toEqual({ kind: 'websocket', sizeBytes: 2 })
})
