package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// guarded is the image service of a node before a registry that demands a password.
type guarded struct {
	password string
	present  map[string]bool // by the image's name
	pulls    int
	failing  error // of the next pull, after which the image may be there nevertheless
}

func (g *guarded) Image(_ context.Context, spec *cri.ImageSpec) (*cri.Image, error) {
	name := strings.TrimPrefix(spec.Image, "id of ")
	if !g.present[name] {
		return nil, nil
	}
	return &cri.Image{Id: "id of " + name, RepoTags: []string{name}}, nil
}

func (g *guarded) PullImage(_ context.Context, spec *cri.ImageSpec, auth *cri.AuthConfig, _ *cri.PodSandboxConfig) (string, error) {
	g.pulls++
	if g.failing != nil {
		return "", g.failing
	}
	if auth.GetPassword() != g.password {
		return "", errors.New("401 Unauthorized")
	}
	g.present[spec.Image] = true
	return "id of " + spec.Image, nil
}

// pullSecret is a secret of the namespace with a password for the registry.
func pullSecret(namespace, name, password string) *v1.Secret {
	s := secret(fmt.Sprintf(`{"auths":{"r.example":{"username":"u","password":%q}}}`, password))
	s.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid of " + namespace + "/" + name)}
	return s
}

const private = "r.example/private:1"

// ask is a pod's wish for the private image. It returns the reason it does not get it, and says how many
// pulls it took.
func ask(t *testing.T, p *Puller, policy v1.PullPolicy, secrets ...*v1.Secret) (reason, message string) {
	t.Helper()
	p.failures = map[failureKey]failure{} // back-off is not what this is about
	_, err := p.Ensure(t.Context(), Request{Pod: "p", Image: private, Policy: policy, Secrets: secrets, Event: func(_, _, _ string) {}})
	var missing *Error
	if errors.As(err, &missing) {
		return missing.Reason, missing.Message
	}
	if err != nil {
		t.Fatal(err)
	}
	return "", ""
}

func TestPrivateImages(t *testing.T) {
	g := &guarded{password: "right", present: map[string]bool{}}
	dir := t.TempDir()
	p := newPuller(t, g, dir, Verification{})
	owner := pullSecret("a", "s", "right")
	pulls := 0
	step := func(what string, policy v1.PullPolicy, wantReason string, wantPull bool, secrets ...*v1.Secret) {
		t.Helper()
		reason, message := ask(t, p, policy, secrets...)
		if wantPull {
			pulls++
		}
		if reason != wantReason || g.pulls != pulls {
			t.Errorf("%s: reason %q (%s) after %d pulls, want %q after %d", what, reason, message, g.pulls, wantReason, pulls)
		}
		g.pulls = pulls
	}
	step("first", v1.PullIfNotPresent, "", true, owner)
	step("again", v1.PullIfNotPresent, "", false, owner)
	step("again, never", v1.PullNever, "", false, owner)
	step("without a secret", v1.PullIfNotPresent, "ErrImagePull", true)
	step("without a secret, never", v1.PullNever, "ErrImageNeverPull", false)
	step("with a wrong one", v1.PullIfNotPresent, "ErrImagePull", true, pullSecret("b", "s", "wrong"))
	step("with the same password", v1.PullIfNotPresent, "", false, pullSecret("c", "s", "right"))
	step("that changed since", v1.PullIfNotPresent, "", false, pullSecret("c", "s", "changed"))
	step("with the name of another namespace's", v1.PullNever, "ErrImageNeverPull", false, pullSecret("d", "s", "wrong"))

	p = newPuller(t, g, dir, Verification{}) // the kubelet is started again
	step("owner after a restart", v1.PullNever, "", false, owner)
	step("without a secret after a restart", v1.PullNever, "ErrImageNeverPull", false)

	// What is there but not for the pod is not told from what is not there.
	_, withheld := ask(t, p, v1.PullNever)
	g.present = map[string]bool{}
	if _, absent := ask(t, p, v1.PullNever); absent != withheld || withheld != `Container image "r.example/private:1" is not present with pull policy of Never` {
		t.Errorf("message is %q for an image of others, %q for none", withheld, absent)
	}
	g.password = "" // the image becomes public
	step("public", v1.PullIfNotPresent, "", true)
	g.password = "right"
	step("everybody's", v1.PullNever, "", false)
}

func TestVerificationPolicies(t *testing.T) {
	for _, test := range []struct {
		policy            kubeletconfig.ImagePullCredentialsVerificationPolicy
		allowed           []string
		preloaded, pulled string
	}{
		{"", nil, "", "ErrImageNeverPull"},
		{kubeletconfig.NeverVerifyPreloadedImages, nil, "", "ErrImageNeverPull"},
		{kubeletconfig.NeverVerify, nil, "", ""},
		{kubeletconfig.AlwaysVerify, nil, "ErrImageNeverPull", "ErrImageNeverPull"},
		{kubeletconfig.NeverVerifyAllowlistedImages, nil, "ErrImageNeverPull", "ErrImageNeverPull"},
		{kubeletconfig.NeverVerifyAllowlistedImages, []string{"r.example/private"}, "", ""},
		{kubeletconfig.NeverVerifyAllowlistedImages, []string{"r.example/*"}, "", ""},
		{kubeletconfig.NeverVerifyAllowlistedImages, []string{"r.example/priv", "r.example/private/*"}, "ErrImageNeverPull", "ErrImageNeverPull"},
	} {
		g := &guarded{password: "right", present: map[string]bool{private: true}}
		p := newPuller(t, g, t.TempDir(), Verification{Policy: test.policy, Allowed: test.allowed})
		if reason, _ := ask(t, p, v1.PullNever); reason != test.preloaded {
			t.Errorf("%s %v: preloaded image gives %q, want %q", test.policy, test.allowed, reason, test.preloaded)
		}
		if reason, message := ask(t, p, v1.PullAlways, pullSecret("a", "s", "right")); reason != "" {
			t.Errorf("pull with the secret: %s: %s", reason, message)
		}
		if reason, _ := ask(t, p, v1.PullNever); reason != test.pulled {
			t.Errorf("%s %v: pulled image gives %q, want %q", test.policy, test.allowed, reason, test.pulled)
		}
	}
	for _, v := range []Verification{
		{Policy: "Sometimes"}, {Allowed: []string{"r.example/a"}},
		{Policy: kubeletconfig.NeverVerifyAllowlistedImages, Allowed: []string{"r.example/a:1"}},
		{Policy: kubeletconfig.NeverVerifyAllowlistedImages, Allowed: []string{"r.example/a*"}},
		{Policy: kubeletconfig.NeverVerifyAllowlistedImages, Allowed: []string{"/*"}},
		{Policy: kubeletconfig.NeverVerifyAllowlistedImages, Allowed: []string{" r.example/a"}},
	} {
		if _, err := NewPuller(nil, t.TempDir(), v); err == nil {
			t.Errorf("%+v is taken", v)
		}
	}
}

// TestPullsCutOff has the kubelet end, or lose interest, while the runtime goes on to pull.
func TestPullsCutOff(t *testing.T) {
	for name, image := range map[string]*cri.Image{
		"tag":    {Id: "id of " + private, RepoTags: []string{private}},
		"absent": nil,
	} {
		g := &guarded{password: "right", present: map[string]bool{}}
		dir := t.TempDir()
		p := newPuller(t, g, dir, Verification{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Ensure(ctx, Request{Image: private, Policy: v1.PullAlways, Secrets: []*v1.Secret{pullSecret("a", "s", "right")}, Event: func(_, _, _ string) {}}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: %v, want that the context ended", name, err)
		}
		for range 2 {
			if reason, _ := ask(t, p, v1.PullNever); reason != "ErrImageNeverPull" {
				t.Errorf("%s: gave an image whose pull was cut off: %q", name, reason)
			}
			p = newPuller(t, g, dir, Verification{}) // the kubelet is started again
			if image != nil {
				p.Recover([]*cri.Image{image})
			}
		}
		if left, err := p.access.allIntents(); err != nil || (len(left) == 0) != (image != nil) {
			t.Errorf("%s: notes left are %v (%v)", name, left, err)
		}
		if reason, message := ask(t, p, v1.PullIfNotPresent, pullSecret("a", "s", "right")); reason != "" {
			t.Errorf("%s: pull with the secret: %s: %s", name, reason, message)
		}
		if left, err := p.access.allIntents(); err != nil || len(left) > 0 {
			t.Errorf("%s: notes left are %v (%v)", name, left, err)
		}
	}
}

// TestPullsOfOneImageTogether has several pods pull an image at the same time: its note goes with the last.
func TestPullsOfOneImageTogether(t *testing.T) {
	p := newPuller(t, &guarded{}, t.TempDir(), Verification{})
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if err := p.access.begin(private); err != nil {
				t.Error(err)
			}
			if noted, err := p.access.intended(private); err != nil || !noted {
				t.Errorf("a pull under way is not noted: %v", err)
			}
			p.access.end(private)
		})
	}
	group.Wait()
	if left, err := p.access.allIntents(); err != nil || len(left) > 0 || len(p.access.running) > 0 {
		t.Errorf("left are %v and %v (%v)", left, p.access.running, err)
	}
}

func TestFailedPullsLeaveNothing(t *testing.T) {
	g := &guarded{password: "right", present: map[string]bool{}, failing: errors.New("no route")}
	p := newPuller(t, g, t.TempDir(), Verification{})
	ask(t, p, v1.PullAlways)
	if left, err := p.access.allIntents(); err != nil || len(left) > 0 {
		t.Errorf("notes left are %v (%v)", left, err)
	}
	// Imported by hand afterwards, it is everybody's.
	g.present[private] = true
	if reason, message := ask(t, p, v1.PullNever); reason != "" {
		t.Errorf("imported image: %s: %s", reason, message)
	}
}

func TestRecordsOnDisk(t *testing.T) {
	dir := t.TempDir()
	r, err := openRecords(dir)
	if err != nil {
		t.Fatal(err)
	}
	record := &kubeletconfig.ImagePulledRecord{
		LastUpdatedTime: metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), ImageRef: "testimageref",
		CredentialMapping: map[string]kubeletconfig.ImagePullCredentials{"r.example/a": {
			KubernetesSecrets: []kubeletconfig.ImagePullSecret{{UID: "u", Namespace: "n", Name: "s", CredentialHash: "h"}},
		}},
	}
	if err := errors.Join(r.writeIntent("docker.io/testing/test:latest"), r.write(record)); err != nil {
		t.Fatal(err)
	}
	// Names and contents as upstream writes them.
	for file, want := range map[string]string{
		"pulling/sha256-aef2af226629a35d5f3ef0fdbb29fdbebf038d0acd8850590e8c48e1e283aa56": `{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"docker.io/testing/test:latest"}`,
		"pulled/" + filepath.Base(recordFile("", "testimageref")):                         `{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2026-01-02T03:04:05Z","imageRef":"testimageref","credentialMapping":{"r.example/a":{"kubernetesSecrets":[{"uid":"u","namespace":"n","name":"s","credentialHash":"h"}]}}}`,
	} {
		got, err := os.ReadFile(filepath.Join(dir, file))
		if diff := cmp.Diff(want+"\n", string(got)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", file, err, diff)
		}
	}
	for content, why := range map[string]string{
		"{": "cut off", `{"kind":"ImagePulledRecord","apiVersion":"v1"}`: "of another kind",
		`{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","imageRef":"testimageref","expires":1}`: "with a field of a later version",
	} {
		if err := os.WriteFile(recordFile(r.pulled, "testimageref"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.get("testimageref"); err == nil {
			t.Errorf("a record %s is taken", why)
		}
		g := &guarded{present: map[string]bool{}}
		p := newPuller(t, g, dir, Verification{})
		if name, err := ParseName(private); err != nil || p.access.granted(name, "testimageref", nil) {
			t.Errorf("a record %s grants access (%v)", why, err)
		}
	}
}

// TestHashIsUpstreams compares with what sha256sum says of {"username":"u","password":"right"}.
func TestHashIsUpstreams(t *testing.T) {
	name, err := ParseName(private)
	if err != nil {
		t.Fatal(err)
	}
	found, err := credentials([]*v1.Secret{pullSecret("a", "s", "right")}, name)
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v (%v)", found, err)
	}
	want := kubeletconfig.ImagePullSecret{UID: "uid of a/s", Namespace: "a", Name: "s", CredentialHash: "2ccf76ed11c98ff785c7bd0b8e9814eedf68a1ad5134828797674831c3a8dcaf"}
	if diff := cmp.Diff(want, found[0].secret); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPrune(t *testing.T) {
	g := &guarded{password: "right", present: map[string]bool{}}
	p := newPuller(t, g, t.TempDir(), Verification{})
	ask(t, p, v1.PullAlways, pullSecret("a", "s", "right"))
	records := func() int {
		t.Helper()
		all, err := p.access.allPulled()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	p.Prune([]*cri.Image{{Id: "id of " + private}}, time.Now().Add(time.Hour))
	p.Prune(nil, time.Now().Add(-time.Hour)) // the image came after they were listed
	if records() != 1 {
		t.Errorf("%d records left of an image that is there", records())
	}
	p.Prune(nil, time.Now().Add(time.Hour))
	if records() != 0 {
		t.Errorf("%d records left of an image that is gone", records())
	}
}
