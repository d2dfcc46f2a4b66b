package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
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

// record plays the cases of the test on kube-apiserver and writes its answers;
// for the group families those alone.
func record(ctx context.Context, s settings, real *server, c *corpus) error {
	if err := prepare(ctx, real, c); err != nil {
		return err
	}
	var list []recorded
	if s.group == "families" {
		for _, t := range familyCases() {
			list = append(list, recorded{Kind: s.group, Case: t})
		}
		return answerRecorded(ctx, real, list, s.record)
	}
	kinds, err := discover(ctx, real)
	if err != nil {
		return err
	}
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
	return answerRecorded(ctx, real, list, s.record)
}

// answerRecorded asks what is in list and writes it with the answers.
func answerRecorded(ctx context.Context, real *server, list []recorded, file string) (err error) {
	for i := range list {
		if list[i].Answers, err = play(ctx, real, list[i].Case); err != nil {
			return fmt.Errorf("%s: %s: %w", list[i].Kind, list[i].Case.Name, err)
		}
	}
	return writeRecorded(list, file)
}

// writeRecorded writes one case per line.
func writeRecorded(list []recorded, file string) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z := gzip.NewWriter(out)
	lines := json.NewEncoder(z)
	for _, r := range list {
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	return z.Close()
}
