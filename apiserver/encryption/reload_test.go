package encryption

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skiff-k8s/skiff/apiserver/encryption/kmstest"
)

func aesFile(name string) string {
	return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n" +
		"  - aesgcm: {keys: [{name: " + name + ", secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}\n  - aesgcm: {keys: [{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}\n"
}

// A new version of the file is taken if it is good, and its plugins are well;
// one that is not is counted, and leaves the old in force.
func TestReload(t *testing.T) {
	path := t.TempDir() + "/encryption.yaml"
	write := func(text string) {
		t.Helper()
		// As people and the kubelet replace such files.
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(aesFile("a"))
	registry := prometheus.NewPedanticRegistry()
	e, err := Open(t.Context(), Config{File: path, Reload: true, ServerID: "server", Metrics: registry,
		Times: Times{Look: time.Millisecond, Settle: time.Millisecond, Ill: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	defer func() {
		end()
		<-ended
	}()
	reloads := func(status string) float64 {
		return sum(t, registry, "apiserver_encryption_config_controller_automatic_reloads_total", status)
	}
	failsTwice := func() { // it is tried again
		t.Helper()
		for before := reloads("failure"); reloads("failure") < before+2; time.Sleep(time.Millisecond) {
		}
	}
	writes := func(name string) {
		t.Helper()
		if s := encrypt(t, e, "value"); !strings.HasPrefix(string(s), "k8s:enc:"+name+":") {
			t.Errorf("written as %q, want %s", s, name)
		}
	}
	old := encrypt(t, e, "value")
	writes("aesgcm:v1:a")

	changed := e.Changed()
	write(aesFile("b"))
	<-changed
	writes("aesgcm:v1:b")
	if value, stale := decrypt(t, e, old); value != "value" || !stale {
		t.Errorf("of the old key: %q, stale %v", value, stale)
	}

	for _, bad := range []string{"garbage", "", aesFile("''")} {
		write(bad)
		failsTwice()
		writes("aesgcm:v1:b")
	}
	if err := e.Check(t.Context()); err != nil {
		t.Errorf("check without plugins: %v", err)
	}

	// The plugin of a new file has to be well before.
	p := kmstest.New(t)
	text, err := os.ReadFile(kmsFile(t, p.Socket, "50ms"))
	if err != nil {
		t.Fatal(err)
	}
	write(string(text))
	failsTwice()
	writes("aesgcm:v1:b")
	changed = e.Changed()
	p.Start(t)
	<-changed
	for !strings.HasPrefix(string(encrypt(t, e, "value")), "k8s:enc:kms:v2:vault:") { // the notice was of the plugin
		time.Sleep(time.Millisecond)
	}

	changed = e.Changed()
	write(aesFile("c"))
	<-changed
	writes("aesgcm:v1:c")
	if n := sum(t, registry, "apiserver_encryption_config_controller_last_config_info", ""); n != 1 {
		t.Errorf("%v configurations are in force", n)
	}
	if reloads("success") != 3 {
		t.Errorf("%v files were taken", reloads("success"))
	}
}

// sum adds the values of a metric that have a label of some value; empty: any.
func sum(t *testing.T, registry *prometheus.Registry, name, label string) (total float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labelled := label == ""
			for _, l := range m.GetLabel() {
				labelled = labelled || l.GetValue() == label
			}
			if labelled && family.GetName() == name {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return total
}
