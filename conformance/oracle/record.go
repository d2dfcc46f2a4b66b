package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// recorded is one case with the answers kube-apiserver gave.
type recorded struct {
	Kind    string   `json:"kind"`
	Case    testCase `json:"case"`
	Answers []answer `json:"answers"`
}

// recordedKinds are what the test replays. Deriving wrong objects of ConfigMap
// and Service is enough there: oracle itself asks for all.
var recordedKinds = []string{"v1 ConfigMap", "v1 Service", "v1 Pod", "apps/v1 Deployment"}

// record plays the cases of the test on kube-apiserver and writes its answers,
// one case per line.
func record(ctx context.Context, real *server, c *corpus, file string) error {
	if err := prepare(ctx, real, c); err != nil {
		return err
	}
	kinds, err := discover(ctx, real)
	if err != nil {
		return err
	}
	var list []recorded
	for _, set := range c.written {
		for _, t := range set.cases {
			list = append(list, recorded{Kind: set.name, Case: t})
		}
	}
	for _, k := range kinds {
		if !slices.Contains(recordedKinds, k.String()) {
			continue
		}
		cases := lives(k, c.kinds[k.String()])
		if k.Kind == "ConfigMap" || k.Kind == "Service" {
			more, err := derived(ctx, real, k, c.kinds[k.String()])
			if err != nil {
				return err
			}
			cases = append(cases, more...)
		}
		for _, t := range cases {
			list = append(list, recorded{Kind: k.String(), Case: t})
		}
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	w := bufio.NewWriter(out)
	for _, r := range list {
		if r.Answers, err = play(ctx, real, r.Case); err != nil {
			return fmt.Errorf("%s: %s: %w", r.Kind, r.Case.Name, err)
		}
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		w.Write(append(line, '\n'))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return out.Close()
}
