import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.security.SecureRandom;
import java.util.*;
import java.util.zip.CRC32;

import static java.nio.charset.StandardCharsets.UTF_8;

/**
 * A client of the store after docs/protocol.md, on the JDK (17) alone. Requests of several threads wait for each other.
 *
 * <pre>java Kv.java HOST:PORT[,HOST:PORT...] get KEY | put KEY VALUE [VERSION] | remove KEY | alive</pre>
 *
 * Exit status: 0; 1: the node says no; 2: wrong arguments; 3: no answer, so that a put or remove may have taken effect.
 */
public class Kv implements AutoCloseable {
    static final int[] TIMEOUTS_MS = {150, 450, 1350, 2500, 2000}; // the silence after each try
    // Nodes remember a request for 6 s: no try leaves later than this after one that nobody answered.
    static final int SAFE_RETRY_MS = 5000;
    static final int PATIENCE_MS = 10_000; // with refusals, until the caller hears of them
    static final int DATAGRAM_MAX_BYTES = 16 * 1024;
    static final int PUT = 1, GET = 2, REMOVE = 3, IS_ALIVE = 6, SYS_OVERLOAD_ERR = 3, NO_ANSWER = -1;
    static final String[] ERRORS = {"", "no such key", "the store is full", "overloaded: nothing was done",
        "a fault in the node", "unknown command", "a key has 1 to 32 bytes", "a value has at most 10,000 bytes"};

    public record Stored(byte[] value, int version) {}

    /** `code`: an errCode, or NO_ANSWER: a put or remove may have taken effect, and may yet. */
    @SuppressWarnings("serial")
    public static class Failure extends IOException {
        public final int code;

        Failure(int code, String text) {
            super(text);
            this.code = code;
        }
    }

    private final String names;
    private final List<InetSocketAddress> servers = new ArrayList<>();
    private final DatagramSocket socket = new DatagramSocket(); // not connected: a late answer of any server is heard
    private final SecureRandom random = new SecureRandom();
    private int current; // the server that the next try goes to

    public Kv(String... addresses) throws IOException {
        names = String.join(", ", addresses);
        for (String address : addresses) {
            int colon = address.lastIndexOf(':');
            if (colon < 0) throw new IllegalArgumentException(address + ": a server is HOST:PORT");
            InetAddress host = InetAddress.getByName(address.substring(0, colon));
            servers.add(new InetSocketAddress(host, Integer.parseInt(address.substring(colon + 1))));
        }
    }

    public Stored get(byte[] key) throws IOException {
        Map<Integer, Object> answer = request("get", message(1, GET, 2, key));
        return new Stored(bytes(answer, 2), (int) number(answer, 4));
    }

    public void put(byte[] key, byte[] value, int version) throws IOException {
        request("put", message(1, PUT, 2, key, 3, value, 4, version));
    }

    public void remove(byte[] key) throws IOException {
        request("remove", message(1, REMOVE, 2, key));
    }

    public void alive() throws IOException {
        request("alive", message(1, IS_ALIVE));
    }

    @Override
    public void close() {
        socket.close();
    }

    private synchronized Map<Integer, Object> request(String what, byte[] payload) throws IOException {
        byte[] id = new byte[16]; // one for all tries of a request, a new one for each request
        random.nextBytes(id);
        byte[] data = message(1, id, 2, payload, 3, crc(id, payload));
        if (data.length > DATAGRAM_MAX_BYTES) throw new IllegalArgumentException(what + ": key or value is too long");
        // By the wall clock, which goes on while the machine sleeps. `oldest`: when a try left that may yet happen.
        long started = System.currentTimeMillis(), oldest = started;
        boolean unanswered = false; // some try was
        String trouble = "";
        for (int step = 0; step < TIMEOUTS_MS.length && System.currentTimeMillis() <= oldest + SAFE_RETRY_MS; ) {
            try {
                socket.send(new DatagramPacket(data, data.length, servers.get(current)));
            } catch (IOException e) { // no way there, say: the next server may have one
                trouble = " (" + e.getMessage() + ")";
            }
            long due = now() + TIMEOUTS_MS[step];
            boolean refused = false;
            for (Map<Integer, Object> answer; (answer = receive(id, due)) != null; ) {
                int code = (int) number(answer, 1);
                if (code == 0) return answer;
                String text = what + ": " + (code > 0 && code < ERRORS.length ? ERRORS[code] : "error code " + code);
                if (code != SYS_OVERLOAD_ERR) throw new Failure(code, text);
                if (refused) continue; // it belongs to an earlier try
                refused = true;
                long asked = Math.min(Math.max(number(answer, 5), 5), 7500);
                long wait = (long) (asked * (1 + random.nextDouble() / 4)); // who was refused together comes back apart
                if (System.currentTimeMillis() + wait > (unanswered ? oldest + SAFE_RETRY_MS : started + PATIENCE_MS))
                    throw unanswered ? new Failure(NO_ANSWER, text + " by this try, but one before got no answer")
                        : new Failure(code, text);
                due = now() + wait;
            }
            if (!refused) {
                unanswered = true;
                step++;
                current = (current + 1) % servers.size();
            } else if (!unanswered) {
                oldest = System.currentTimeMillis();
            }
        }
        throw new Failure(NO_ANSWER, what + ": no answer from " + names);
    }

    /** The answer to that request; null when none has come until `due`. Whatever else arrives is ignored. */
    private Map<Integer, Object> receive(byte[] id, long due) throws IOException {
        for (long left; (left = due - now()) > 0; ) {
            DatagramPacket packet = new DatagramPacket(new byte[DATAGRAM_MAX_BYTES], DATAGRAM_MAX_BYTES);
            socket.setSoTimeout((int) left);
            try {
                socket.receive(packet);
                Map<Integer, Object> message = fields(ByteBuffer.wrap(packet.getData(), 0, packet.getLength()));
                byte[] payload = bytes(message, 2);
                boolean isResponse = number(message, 5) == 1 && number(message, 3) == crc(id, payload);
                if (isResponse && Arrays.equals(bytes(message, 1), id)) return fields(ByteBuffer.wrap(payload));
            } catch (SocketTimeoutException | RuntimeException e) { // nothing, or no message
            }
        }
        return null;
    }

    private static long now() {
        return System.nanoTime() / 1_000_000;
    }

    private static long crc(byte[] id, byte[] payload) {
        CRC32 crc = new CRC32();
        crc.update(id);
        crc.update(payload);
        return crc.getValue();
    }

    /** Protocol buffers, as far as needed: rows of number and value. int: varint; long: fixed64; byte[]: bytes. */
    private static byte[] message(Object... fields) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (int at = 0; at < fields.length; at += 2) {
            int number = (int) fields[at];
            if (fields[at + 1] instanceof byte[] bytes) {
                varint(out, number << 3 | 2);
                varint(out, bytes.length);
                out.writeBytes(bytes);
            } else if (fields[at + 1] instanceof Long fixed) {
                varint(out, number << 3 | 1);
                out.writeBytes(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(fixed).array());
            } else {
                varint(out, number << 3);
                varint(out, (int) fields[at + 1]);
            }
        }
        return out.toByteArray();
    }

    private static void varint(ByteArrayOutputStream out, long value) {
        for (; (value & ~127L) != 0; value >>>= 7) out.write((int) value & 127 | 128);
        out.write((int) value);
    }

    /** The last field of each number: a Long or a byte[]. RuntimeException: there is no such message. */
    private static Map<Integer, Object> fields(ByteBuffer in) {
        Map<Integer, Object> fields = new HashMap<>();
        in.order(ByteOrder.LITTLE_ENDIAN);
        while (in.hasRemaining()) {
            long tag = varint(in);
            fields.put((int) (tag >>> 3), switch ((int) tag & 7) {
                case 0 -> varint(in);
                case 1 -> in.getLong();
                case 2 -> {
                    int length = Math.toIntExact(varint(in));
                    byte[] bytes = new byte[Math.min(length, in.remaining() + 1)]; // one too many is enough to fail
                    in.get(bytes);
                    yield bytes;
                }
                case 5 -> (long) in.getInt();
                default -> throw new IllegalArgumentException("tag " + tag);
            });
        }
        return fields;
    }

    private static long varint(ByteBuffer in) {
        long value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            byte next = in.get();
            value |= (next & 127L) << shift;
            if (next >= 0) return value;
        }
        throw new IllegalArgumentException("a number of more than 64 bits");
    }

    private static long number(Map<Integer, Object> fields, int field) {
        return (Long) fields.getOrDefault(field, 0L);
    }

    private static byte[] bytes(Map<Integer, Object> fields, int field) {
        return (byte[]) fields.getOrDefault(field, new byte[0]);
    }

    public static void main(String[] args) {
        int status = 0;
        String usage = "HOST:PORT[,HOST:PORT...] get KEY | put KEY VALUE [VERSION] | remove KEY | alive";
        byte[][] words = Arrays.stream(args).map(word -> word.getBytes(UTF_8)).toArray(byte[][]::new);
        try (Kv kv = new Kv(args.length == 0 ? new String[0] : args[0].split(","))) {
            switch (args.length < 2 ? "" : args[1] + " " + args.length) {
                case "get 3" -> {
                    System.out.write(kv.get(words[2]).value());
                    System.out.println();
                }
                case "put 4" -> kv.put(words[2], words[3], 0);
                case "put 5" -> kv.put(words[2], words[3], Integer.parseInt(args[4]));
                case "remove 3" -> kv.remove(words[2]);
                case "alive 2" -> kv.alive();
                default -> throw new IllegalArgumentException(usage);
            }
        } catch (IOException | IllegalArgumentException e) {
            System.err.println("Kv: " + (e instanceof NumberFormatException ? usage : e.getMessage()));
            status = !(e instanceof Failure failure) ? 2 : failure.code == NO_ANSWER ? 3 : 1;
        }
        System.exit(status);
    }
}
