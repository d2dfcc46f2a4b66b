package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// addHeap adds what the programs of a server keep alive. A Go program collects when its heap has doubled, unless it is
// told otherwise, and these are not: what was alive at the last collection is half of what the next one waits for.
func (l *load) addHeap(ctx context.Context, row string, s *subject) error {
	api, err := l.clients[0].Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return err
	}
	sum, err := nextCollection(api)
	for _, address := range s.metrics {
		if err != nil {
			return err
		}
		var more float64
		more, err = nextCollectionAt(ctx, address)
		sum += more
	}
	l.add(row, mebibytes, sum/2/(1<<20))
	return err
}

func nextCollectionAt(ctx context.Context, address string) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return nextCollection(text)
}

// nextCollection reads the size of the heap at which a program will collect from its metrics.
func nextCollection(metrics []byte) (float64, error) {
	for lines := bufio.NewScanner(bytes.NewReader(metrics)); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), "go_memstats_next_gc_bytes "); found {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, errors.New("the metrics do not say when memory is collected next")
}

// A machine is quiet when less than that of its processors is busy. It is waited for, and then measured all the same: the
// table says how busy it was.
const (
	mostBusy     = 0.05
	quietWithin  = 30 * time.Second
	busySampling = 2 * time.Second
)

// quiet waits until the machine is, and returns the share of its processors that is busy.
func quiet(ctx context.Context) (busy float64, err error) {
	for began := time.Now(); ; {
		if busy, err = busyShare(ctx, busySampling); err != nil || busy < mostBusy || time.Since(began) > quietWithin {
			return busy, err
		}
	}
}

func busyShare(ctx context.Context, d time.Duration) (float64, error) {
	all, idle, err := processorTicks()
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, d); err != nil {
		return 0, err
	}
	allAfter, idleAfter, err := processorTicks()
	if err != nil || allAfter == all {
		return 0, err
	}
	return 1 - float64(idleAfter-idle)/float64(allAfter-all), nil
}

// processorTicks is how long the processors have been there, and idle, in ticks.
func processorTicks() (all, idle int64, err error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	for i, field := range fields[1:9] { // guest time, which follows, is counted in them
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		all += n
		if i == 3 || i == 4 { // idle, and waiting for disks
			idle += n
		}
	}
	return all, idle, nil
}
