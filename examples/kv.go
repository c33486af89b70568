// A client of the store after docs/protocol.md, on Go's standard library (1.19 or newer) alone. For any goroutine; they
// wait for each other.
//
//	go run kv.go HOST:PORT[,HOST:PORT...] get KEY | put KEY VALUE [VERSION] | remove KEY | alive
//
// Exit status: 0; 1: the node says no; 2: wrong arguments; 3: no answer, so that a put or remove may have taken effect.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	mathrand "math/rand"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	put, get, remove, isAlive = 1, 2, 3, 6
	sysOverloadErr            = 3
	noAnswer                  = -1 // among the codes of Failure
	datagramMaxBytes          = 16 * 1024
	patience                  = 10 * time.Second // with refusals, until the caller hears of them
	// Nodes remember a request for 6 s: no try leaves later than this after one that nobody answered.
	safeRetry = 5 * time.Second
)

var timeoutsMs = [...]int{150, 450, 1350, 2500, 2000} // the silence after each try
var errorTexts = [...]string{"", "no such key", "the store is full", "overloaded: nothing was done",
	"a fault in the node", "unknown command", "a key has 1 to 32 bytes", "a value has at most 10,000 bytes"}

// Failure has an errCode, or noAnswer: a put or remove may have taken effect, and may yet.
type Failure struct {
	Code int
	Text string
}

func (failure *Failure) Error() string { return failure.Text }

type Kv struct {
	lock    sync.Mutex
	names   string
	servers []*net.UDPAddr
	socket  *net.UDPConn // not connected: a late answer of any server is heard
	current int          // the server that the next try goes to
}

func Open(addresses ...string) (*Kv, error) {
	kv := &Kv{names: strings.Join(addresses, ", ")}
	for _, address := range addresses {
		server, err := net.ResolveUDPAddr("udp", address)
		if err != nil {
			return nil, err
		}
		kv.servers = append(kv.servers, server)
	}
	var err error
	kv.socket, err = net.ListenUDP("udp", nil)
	return kv, err
}

func (kv *Kv) Close() error { return kv.socket.Close() }

func (kv *Kv) Get(key []byte) (value []byte, version int32, err error) {
	answer, err := kv.request("get", message(1, get, 2, key))
	return answer.bytes[2], int32(answer.numbers[4]), err
}

func (kv *Kv) Put(key, value []byte, version int32) error {
	_, err := kv.request("put", message(1, put, 2, key, 3, value, 4, int(version)))
	return err
}

func (kv *Kv) Remove(key []byte) error {
	_, err := kv.request("remove", message(1, remove, 2, key))
	return err
}

func (kv *Kv) Alive() error {
	_, err := kv.request("alive", message(1, isAlive))
	return err
}

func (kv *Kv) request(what string, payload []byte) (fields, error) {
	kv.lock.Lock()
	defer kv.lock.Unlock()
	id := make([]byte, 16) // one for all tries of a request, a new one for each request
	if _, err := rand.Read(id); err != nil {
		return fields{}, err
	}
	data := message(1, id, 2, payload, 3, checkSum(id, payload))
	if len(data) > datagramMaxBytes {
		return fields{}, errors.New(what + ": key or value is too long")
	}
	// By the wall clock, which goes on while the machine sleeps. oldest: when a try left that may yet happen.
	started := wallClock()
	oldest, unanswered, trouble := started, false, "" // unanswered: some try was
	for step := 0; step < len(timeoutsMs) && wallClock().Sub(oldest) <= safeRetry; {
		if _, err := kv.socket.WriteToUDP(data, kv.servers[kv.current]); err != nil {
			trouble = " (" + err.Error() + ")" // no way there, say: the next server may have one
		}
		due, refused := time.Now().Add(time.Duration(timeoutsMs[step])*time.Millisecond), false
		for answer, ok := kv.receive(id, due); ok; answer, ok = kv.receive(id, due) {
			code := int(int32(answer.numbers[1]))
			if code == 0 {
				return answer, nil
			}
			text := fmt.Sprintf("%s: error code %d", what, code)
			if code > 0 && code < len(errorTexts) {
				text = what + ": " + errorTexts[code]
			}
			if code != sysOverloadErr {
				return fields{}, &Failure{code, text}
			}
			if refused {
				continue // it belongs to an earlier try
			}
			refused = true
			asked := math.Min(math.Max(float64(int32(answer.numbers[5])), 5), 7500)
			// Up to a quarter more: who was refused together comes back apart.
			wait := time.Duration(asked * (1 + mathrand.Float64()/4) * float64(time.Millisecond))
			back := wallClock().Add(wait)
			if unanswered && back.Sub(oldest) > safeRetry {
				return fields{}, &Failure{noAnswer, text + " by this try, but one before got no answer"}
			}
			if !unanswered && back.Sub(started) > patience {
				return fields{}, &Failure{code, text}
			}
			due = time.Now().Add(wait)
		}
		if !refused {
			unanswered = true
			step++
			kv.current = (kv.current + 1) % len(kv.servers)
		} else if !unanswered {
			oldest = wallClock()
		}
	}
	return fields{}, &Failure{noAnswer, what + ": no answer from " + kv.names + trouble}
}

// The answer to that request; none has come until due. Whatever else arrives is ignored.
func (kv *Kv) receive(id []byte, due time.Time) (fields, bool) {
	kv.socket.SetReadDeadline(due)
	buffer := make([]byte, datagramMaxBytes)
	for {
		length, _, err := kv.socket.ReadFromUDP(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return fields{}, false
		}
		msg, ok := parse(buffer[:length])
		payload := msg.bytes[2]
		if ok && bytes.Equal(msg.bytes[1], id) && msg.numbers[5] == 1 && msg.numbers[3] == checkSum(id, payload) {
			if answer, ok := parse(payload); ok {
				return answer, true
			}
		}
	}
}

// Without Go's monotonic reading, which stands still while the machine sleeps.
func wallClock() time.Time { return time.Now().Round(0) }

func checkSum(id, payload []byte) uint64 {
	return uint64(crc32.Update(crc32.ChecksumIEEE(id), crc32.IEEETable, payload))
}

// Protocol buffers, as far as they are needed: rows of number and value; int: varint, uint64: fixed64, []byte: bytes.
func message(numbersAndValues ...any) (data []byte) {
	for at := 0; at < len(numbersAndValues); at += 2 {
		tag := uint64(numbersAndValues[at].(int)) << 3
		switch value := numbersAndValues[at+1].(type) {
		case int:
			data = binary.AppendUvarint(binary.AppendUvarint(data, tag), uint64(value))
		case uint64:
			data = binary.LittleEndian.AppendUint64(binary.AppendUvarint(data, tag|1), value)
		case []byte:
			data = append(binary.AppendUvarint(binary.AppendUvarint(data, tag|2), uint64(len(value))), value...)
		}
	}
	return data
}

// The last of each number.
type fields struct {
	numbers map[uint64]uint64
	bytes   map[uint64][]byte
}

// False: there is no such message.
func parse(data []byte) (fields, bool) {
	read := fields{map[uint64]uint64{}, map[uint64][]byte{}}
	for len(data) > 0 {
		tag, size := binary.Uvarint(data)
		if size <= 0 {
			return read, false
		}
		data = data[size:]
		number, size := binary.Uvarint(data) // of kinds 0 and 2
		switch kind := tag & 7; {
		case kind == 0 && size > 0:
			read.numbers[tag>>3] = number
		case kind == 1 && len(data) >= 8:
			read.numbers[tag>>3] = binary.LittleEndian.Uint64(data)
			size = 8
		case kind == 2 && size > 0 && number <= uint64(len(data)-size):
			read.bytes[tag>>3] = append([]byte{}, data[size:size+int(number)]...)
			size += int(number)
		case kind == 5 && len(data) >= 4:
			size = 4
		default:
			return read, false
		}
		data = data[size:]
	}
	return read, true
}

func main() {
	usage := errors.New("HOST:PORT[,HOST:PORT...] get KEY | put KEY VALUE [VERSION] | remove KEY | alive")
	if err := run(os.Args[1:], usage); err != nil {
		fmt.Fprintln(os.Stderr, "kv:", err)
		var failure *Failure
		switch {
		case !errors.As(err, &failure):
			os.Exit(2)
		case failure.Code == noAnswer:
			os.Exit(3)
		}
		os.Exit(1)
	}
}

func run(args []string, usage error) error {
	if len(args) < 2 {
		return usage
	}
	kv, err := Open(strings.Split(args[0], ",")...)
	if err != nil {
		return err
	}
	defer kv.Close()
	switch words := args[2:]; fmt.Sprint(args[1], len(words)) {
	case "get1":
		value, _, err := kv.Get([]byte(words[0]))
		if err == nil {
			fmt.Printf("%s\n", value)
		}
		return err
	case "put2":
		return kv.Put([]byte(words[0]), []byte(words[1]), 0)
	case "put3":
		version, err := strconv.ParseInt(words[2], 10, 32)
		if err != nil {
			return usage
		}
		return kv.Put([]byte(words[0]), []byte(words[1]), int32(version))
	case "remove1":
		return kv.Remove([]byte(words[0]))
	case "alive0":
		return kv.Alive()
	}
	return usage
}
