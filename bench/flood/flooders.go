package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"os/exec"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

// flooded is what those that flood saw.
type flooded struct{ Lists, Refused, Broken int }

// startFlooders starts a process that lists as all of these at once, without a pause, until stop.
func startFlooders(kubeconfigs []string) (stop func() (flooded, error), err error) {
	if len(kubeconfigs) == 0 {
		return func() (flooded, error) { return flooded{}, nil }, nil
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-as-flooders", strings.Join(kubeconfigs, ","))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, os.Stderr
	input, err := cmd.StdinPipe() // ends with this process too
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (f flooded, err error) {
		if err := errors.Join(input.Close(), cmd.Wait()); err != nil {
			return f, err
		}
		return f, json.Unmarshal([]byte(said.String()), &f)
	}, nil
}

// beFlooders is the process of those that flood.
func beFlooders(kubeconfigs []string) {
	ctx, end := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		end()
	}()
	var mu sync.Mutex
	var sum flooded
	var all sync.WaitGroup
	for _, kubeconfig := range kubeconfigs {
		c, err := own(kubeconfig)
		if err != nil {
			log.Fatal(err)
		}
		all.Go(func() {
			flood(ctx, c.CoreV1().RESTClient(), func(count func(*flooded)) {
				mu.Lock()
				defer mu.Unlock()
				count(&sum)
			})
		})
	}
	all.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(sum); err != nil {
		log.Fatal(err)
	}
}

// flood lists until ctx ends. Who is refused asks again at once.
func flood(ctx context.Context, c rest.Interface, count func(func(*flooded))) {
	for ctx.Err() == nil {
		// Who asks for gzip itself gets it as it is. To unpack it would take what the server is to have of the processors.
		body, err := c.Get().Namespace("default").Resource("configmaps").SetHeader("Accept-Encoding", "gzip").MaxRetries(0).Stream(ctx)
		if err == nil {
			_, err = io.Copy(io.Discard, body)
			body.Close()
		}
		if ctx.Err() != nil {
			return
		}
		count(func(f *flooded) {
			switch {
			case err == nil:
				f.Lists++
			case apierrors.IsTooManyRequests(err):
				f.Refused++
			default:
				f.Broken++
			}
		})
	}
}
