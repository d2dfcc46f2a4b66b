package encryption

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/encryption/kmstest"
)

// recorded is a value that kube-apiserver stored.
type recorded struct {
	Group, Plural, Key string
	Stored             []byte
}

func recordedValues(t testing.TB) (values []recorded) {
	t.Helper()
	data, err := os.ReadFile("testdata/kubernetes.json")
	if err == nil {
		err = json.Unmarshal(data, &values)
	}
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func (r recorded) resource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Plural}
}

// openAll makes testdata/all.yaml work, with a plugin that answers.
func openAll(t testing.TB) (*Encryption, *kmstest.Plugin) {
	t.Helper()
	plugin := kmstest.New(t)
	plugin.Start(t)
	e, err := Open(t.Context(), Config{File: allFile(t, plugin.Socket)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e, plugin
}

// Values that kube-apiserver 1.36.3 stored with testdata/all.yaml are read. They
// are written by TestInterchange, which asks it the opposite too.
func TestWhatKubernetesStored(t *testing.T) {
	e, plugin := openAll(t)
	values := recordedValues(t)
	if len(values) != 5 {
		t.Fatalf("%d values", len(values))
	}
	for _, v := range values {
		value, stale, err := e.Decrypt(t.Context(), v.resource(), v.Key, v.Stored)
		if err != nil || !bytes.Contains(value, []byte("by-kubernetes")) {
			t.Errorf("%s: got %q, %v", v.Plural, value, err)
		}
		if stale {
			t.Errorf("%s: stale, though its key writes", v.Plural)
		}
	}
	if _, decrypts := plugin.Calls(); decrypts != 1 {
		t.Errorf("the plugin was asked to decrypt %d times", decrypts)
	}
}

var (
	secrets    = schema.GroupResource{Resource: "secrets"}
	configmaps = schema.GroupResource{Resource: "configmaps"}
	accounts   = schema.GroupResource{Resource: "serviceaccounts"}
	endpoints  = schema.GroupResource{Resource: "endpoints"}
)

// What is moved to another place or changed is not read, where the provider can
// tell, as with kube-apiserver.
func TestMovedAndChanged(t *testing.T) {
	e, _ := openAll(t)
	const here, there = "/registry/x/a/one", "/registry/x/a/two"
	for _, c := range []struct {
		resource schema.GroupResource
		moved    string // what a move gives; empty: it is not noticed
	}{
		{secrets, "cipher: message authentication failed"},
		{configmaps, ""},
		{accounts, ""},
		{endpoints, "cipher: message authentication failed"},
	} {
		t.Run(c.resource.Resource, func(t *testing.T) {
			value := []byte(strings.Repeat("0123456789", 30))
			stored, err := e.Encrypt(t.Context(), c.resource, here, value)
			if err != nil || bytes.Contains(stored, value[:10]) {
				t.Fatalf("encrypt: %q, %v", stored, err)
			}
			if got, stale, err := e.Decrypt(t.Context(), c.resource, here, stored); err != nil || stale || !bytes.Equal(got, value) {
				t.Fatalf("decrypt: %q, stale %v, %v", got, stale, err)
			}
			if again, err := e.Encrypt(t.Context(), c.resource, here, value); err != nil || bytes.Equal(again, stored) {
				t.Errorf("the same value is stored as the same bytes, %v", err)
			}
			_, _, err = e.Decrypt(t.Context(), c.resource, there, stored)
			if (err == nil) != (c.moved == "") || err != nil && err.Error() != c.moved {
				t.Errorf("moved: %v, want %q", err, c.moved)
			}
			for n := range stored {
				got, _, err := e.Decrypt(t.Context(), c.resource, here, stored[:n])
				if bytes.HasPrefix(stored[:n], []byte("k8s:enc:")) && err == nil && bytes.Equal(got, value) {
					t.Fatalf("cut to %d bytes: still read", n)
				}
			}
			if c.resource == configmaps {
				return // nothing tells
			}
			for n := len("k8s:enc:"); n < len(stored); n++ {
				changed := bytes.Clone(stored)
				changed[n] ^= 1
				if got, _, err := e.Decrypt(t.Context(), c.resource, here, changed); err == nil && !bytes.Equal(got, value) {
					t.Fatalf("byte %d changed: read %q", n, got)
				}
			}
		})
	}
}

// The first key of the first provider writes, all read; what another one wrote
// is stale.
func TestOrderOfProviders(t *testing.T) {
	const (
		a = "{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZg==}"
		b = "{name: b, secret: ZmVkY2JhOTg3NjU0MzIxMA==}"
		// Of the name of a, with the key of b.
		other = "{name: a, secret: ZmVkY2JhOTg3NjU0MzIxMA==}"
	)
	open := func(providers ...string) *Encryption {
		t.Helper()
		e, err := openFile(t, "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - "+
			strings.Join(providers, "\n  - ")+"\n")
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	const identity = "identity: {}"
	aes := func(keys ...string) string { return "aesgcm: {keys: [" + strings.Join(keys, ", ") + "]}" }
	for _, c := range []struct {
		name          string
		writes, reads []string
		stale         bool
		err           string
	}{
		{"the same", []string{aes(a)}, []string{aes(a)}, false, ""},
		{"second key", []string{aes(b)}, []string{aes(a, b)}, true, ""},
		{"second provider", []string{aes(b)}, []string{aes(a), aes(b)}, true, ""},
		{"another key of that name first", []string{aes(a)}, []string{aes(other), aes(a)}, true, ""},
		{"from nothing", []string{identity}, []string{aes(a), identity}, true, ""},
		{"to nothing", []string{aes(a)}, []string{identity, aes(a)}, true, ""},
		{"nothing from the start", []string{identity}, []string{identity, aes(a)}, false, ""},
		{"a key that is gone", []string{aes(a)}, []string{aes(b), identity}, false, "no matching key was found for the provided AES transformer"},
		{"a provider that is gone", []string{aes(a)}, []string{"aescbc: {keys: [" + a + "]}", identity}, false, "no matching prefix found"},
		{"two keys of the wrong kind", []string{aes(a)}, []string{aes(other), aes(other)}, false,
			"cipher: message authentication failed"},
		{"unencrypted where it may not be", []string{identity}, []string{aes(a)}, false, "no matching prefix found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stored, err := open(c.writes...).Encrypt(t.Context(), secrets, "/registry/secrets/a/x", []byte("value"))
			if err != nil {
				t.Fatal(err)
			}
			value, stale, err := open(c.reads...).Decrypt(t.Context(), secrets, "/registry/secrets/a/x", stored)
			switch {
			case c.err != "" && (err == nil || err.Error() != c.err):
				t.Errorf("got %v, want %s", err, c.err)
			case c.err == "" && (err != nil || stale != c.stale || string(value) != "value"):
				t.Errorf("got %q, stale %v, %v", value, stale, err)
			}
		})
	}
}

// The most special rule for a resource holds; a rule that others mask is refused.
func TestRules(t *testing.T) {
	rule := func(names, key string) string {
		return fmt.Sprintf("- resources: [%s]\n  providers: [{aesgcm: {keys: [{name: %s, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}}]\n", names, key)
	}
	e, err := openFile(t, "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"+
		"- resources: [events]\n  providers: [{identity: {}}]\n"+
		rule("secrets, pandas.awesome.bears.example", "special")+rule("'*.apps'", "apps")+rule("'*.'", "core")+rule("'*.*'", "rest"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"events": "", "secrets": "special", "pandas.awesome.bears.example": "special", "pandas.bears.example": "rest", "secrets.example.com": "rest",
		"deployments.apps": "apps", "deployments.apps.example.com": "rest", "configmaps": "core", "events.events.k8s.io": "rest", "widgets.example.com": "rest",
	} {
		stored, err := e.Encrypt(t.Context(), schema.ParseGroupResource(name), "/k", []byte("value"))
		prefix := "k8s:enc:aesgcm:v1:" + want + ":"
		if want == "" {
			prefix = "value"
		}
		if err != nil || !strings.HasPrefix(string(stored), prefix) {
			t.Errorf("%s: stored %q, %v; want %s", name, stored, err, prefix)
		}
	}
}

// FuzzValue reads what strangers wrote into the storage. What is read is what
// was written, or nothing.
func FuzzValue(f *testing.F) {
	e, _ := openAll(f)
	resources := []schema.GroupResource{secrets, configmaps, accounts, endpoints}
	for _, v := range recordedValues(f) {
		f.Add(v.Stored)
	}
	for _, r := range resources {
		stored, err := e.Encrypt(f.Context(), r, "/k", []byte("value"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(stored)
	}
	f.Add([]byte("k8s:enc:kms:v2:vault:\x22\x00"))
	f.Add([]byte("k8s\x00plain"))
	f.Fuzz(func(t *testing.T, stored []byte) {
		before := bytes.Clone(stored)
		for _, r := range resources {
			value, _, err := e.Decrypt(t.Context(), r, "/k", stored)
			if !bytes.Equal(stored, before) {
				t.Fatal("the stored bytes were changed")
			}
			if err == nil && bytes.HasPrefix(stored, []byte("k8s:enc:")) && r != configmaps && string(value) != "value" && !bytes.Contains(value, []byte("by-kubernetes")) {
				t.Fatalf("%s: read %q of %q", r, value, stored)
			}
		}
		if s, data, err := openEnvelope(stored); err == nil {
			again, content, err := openEnvelope(append(appendData(s.appendHead(nil), len(data)), data...))
			if err != nil || again.sum() != s.sum() || !bytes.Equal(content, data) {
				t.Fatalf("an envelope changes when it is made again: %v", err)
			}
		}
	})
}

// FuzzFile reads files of any content. Those that are taken work.
func FuzzFile(f *testing.F) {
	text, err := os.ReadFile("testdata/all.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("apiVersion: v1\nkind: EncryptionConfig\nresources: [{resources: ['*.*'], providers: [{identity: {}}]}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parse(text, "FILE")
		if err != nil || len(file.validate(true)) > 0 {
			return
		}
		e := &Encryption{metrics: newMetrics(nil, "")}
		v := new(version)
		defer v.close()
		rules, err := e.rules(file, v)
		if err != nil {
			return // masked, or of version 1
		}
		for name := range rules {
			stored, err := rules.of(name).encrypt(t.Context(), place{name, "/k"}, nil, []byte("value"))
			if len(v.plugins) > 0 && err != nil {
				continue // nobody answers
			}
			if value, _, err := rules.of(name).decrypt(t.Context(), place{name, "/k"}, stored); err != nil || string(value) != "value" {
				t.Fatalf("%s: %q, %v", name, value, err)
			}
		}
	})
}
