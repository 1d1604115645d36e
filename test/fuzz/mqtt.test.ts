import { test } from 'vitest'
import { fuzz } from './mqtt.ts'

test('hostile MQTT clients neither crash the broker nor leave anything behind nor hurt another', async () => {
  await fuzz(1_200, Math.floor(Math.random() * 2 ** 32))
}, 30_000)
