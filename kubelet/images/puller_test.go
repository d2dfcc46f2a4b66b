package images

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestParseName(t *testing.T) {
	digest := "sha256:93e707b997e5765ec8d8438bbfc27224014986af3e73f1ed748edfd7d871911f"
	for _, test := range []struct {
		image, name, domain, path, err string
	}{
		{image: "busybox", name: "busybox:latest", domain: "docker.io", path: "library/busybox"},
		{image: "busybox:1", name: "busybox:1", domain: "docker.io", path: "library/busybox"},
		{image: "team/app", name: "team/app:latest", domain: "docker.io", path: "team/app"},
		{image: "localhost/app", name: "localhost/app:latest", domain: "localhost", path: "app"},
		{image: "localhost:5000/a/b:x", name: "localhost:5000/a/b:x", domain: "localhost:5000", path: "a/b"},
		{image: "r.example/a@" + digest, name: "r.example/a@" + digest, domain: "r.example", path: "a"},
		{image: "r.example/a:1@" + digest, name: "r.example/a:1@" + digest, domain: "r.example", path: "a"},
		{image: "FOO", err: `couldn't parse image name "FOO": invalid reference format: repository name (library/FOO) must be lowercase`},
		{image: "a b", err: `couldn't parse image name "a b": invalid reference format`},
		{image: "a:", err: `couldn't parse image name "a:": invalid reference format`},
		{image: "a@sha256:12", err: `couldn't parse image name "a@sha256:12": invalid reference format`},
	} {
		n, err := ParseName(test.image)
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("ParseName(%q): error %v, want %q", test.image, err, test.err)
			}
			continue
		}
		if err != nil || n.String() != test.name || n.Domain != test.domain || n.Path != test.path {
			t.Errorf("ParseName(%q) = %q in %q, %q (%v), want %q in %q, %q", test.image, n, n.Domain, n.Path, err, test.name, test.domain, test.path)
		}
	}
}

func secret(config string) *v1.Secret {
	return &v1.Secret{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(config)}}
}

func TestCredentials(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("u:p:q"))
	all := secret(fmt.Sprintf(`{"auths":{
		"https://index.docker.io/v1/":{"username":"hub","password":"h"},
		"r.example":{"auth":%q},
		"r.example/team":{"username":"team","password":"t"},
		"*.wild.example":{"username":"wild","password":"w"},
		"r.example:5000":{"username":"port","password":"o"}}}`, auth))
	for image, want := range map[string][]string{
		"busybox":            {"hub/h"},
		"r.example/app":      {"u/p:q"},
		"r.example/team/app": {"team/t", "u/p:q"},
		"a.wild.example/x":   {"wild/w"},
		"a.b.wild.example/x": nil,
		"r.example:5000/app": {"port/o"},
		"unknown.example/x":  nil,
	} {
		name, err := ParseName(image)
		if err != nil {
			t.Fatal(err)
		}
		found, err := credentials([]*v1.Secret{all, {Type: v1.SecretTypeOpaque}}, name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range found {
			got = append(got, a.auth.Username+"/"+a.auth.Password)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("credentials for %s (-want +got):\n%s", image, diff)
		}
	}
	if _, err := credentials([]*v1.Secret{secret("{")}, Name{}); err == nil {
		t.Error("a broken configuration is no error")
	}
}

// store is an image service.
type store struct {
	present map[string]bool
	pullErr error
	pulls   int
}

func (s *store) Image(_ context.Context, spec *cri.ImageSpec) (*cri.Image, error) {
	if s.present[spec.Image] {
		return &cri.Image{Id: "id of " + spec.Image, Size: 7}, nil
	}
	return nil, nil
}

func (s *store) PullImage(_ context.Context, spec *cri.ImageSpec, _ *cri.AuthConfig, _ *cri.PodSandboxConfig) (string, error) {
	s.pulls++
	if s.pullErr != nil {
		return "", s.pullErr
	}
	s.present[spec.Image] = true
	return spec.Image, nil
}

func newPuller(t *testing.T, r Runtime, dir string, v Verification) *Puller {
	t.Helper()
	p, err := NewPuller(r, dir, v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEnsure(t *testing.T) {
	for _, test := range []struct {
		name           string
		image          string
		policy         v1.PullPolicy
		present        bool
		pullErr        error
		pulls          int
		reason, events string
	}{
		{name: "present", policy: v1.PullIfNotPresent, present: true, events: "Pulled"},
		{name: "absent", policy: v1.PullIfNotPresent, pulls: 1, events: "Pulling Pulled"},
		{name: "always", policy: v1.PullAlways, present: true, pulls: 1, events: "Pulling Pulled"},
		{name: "never and absent", policy: v1.PullNever, reason: "ErrImageNeverPull", events: "ErrImageNeverPull"},
		{name: "never and present", policy: v1.PullNever, present: true, events: "Pulled"},
		{name: "pull fails", policy: v1.PullAlways, pullErr: errors.New("no route"), pulls: 1, reason: "ErrImagePull", events: "Pulling Failed"},
		{name: "no name", image: "FOO", policy: v1.PullAlways, reason: "InvalidImageName", events: "InspectFailed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.image == "" {
				test.image = "a:1"
			}
			s := &store{present: map[string]bool{"a:1": test.present}, pullErr: test.pullErr}
			events := ""
			_, err := newPuller(t, s, t.TempDir(), Verification{}).Ensure(t.Context(), Request{Image: test.image, Policy: test.policy, Event: func(_, reason, _ string) {
				if events != "" {
					events += " "
				}
				events += reason
			}})
			reason := ""
			var missing *Error
			if errors.As(err, &missing) {
				reason = missing.Reason
			}
			if reason != test.reason || s.pulls != test.pulls || events != test.events {
				t.Errorf("reason %q, %d pulls, events %q; want %q, %d, %q", reason, s.pulls, events, test.reason, test.pulls, test.events)
			}
		})
	}
}

func TestPullBackOffGrows(t *testing.T) {
	s := &store{present: map[string]bool{}, pullErr: errors.New("no route")}
	p := newPuller(t, s, t.TempDir(), Verification{})
	now := time.Unix(0, 0)
	p.now = func() time.Time { return now }
	ask := func() *Error {
		_, err := p.Ensure(t.Context(), Request{Pod: "u", Image: "a:1", Policy: v1.PullAlways, Event: func(_, _, _ string) {}})
		var missing *Error
		errors.As(err, &missing)
		return missing
	}
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		if got := ask().Reason; got != "ErrImagePull" {
			t.Fatalf("a due pull gave %s, want ErrImagePull", got)
		}
		held := ask()
		if held.Reason != "ImagePullBackOff" || held.Message != `Back-off pulling image "a:1": ErrImagePull: no route` {
			t.Errorf("held pull gave %v", held)
		}
		if got := held.Retry.Sub(now); got != want*time.Second {
			t.Errorf("back-off is %v, want %v", got, want*time.Second)
		}
		now = held.Retry
	}
	p.Forget("u")
	s.pullErr = nil
	if err := ask(); err != nil {
		t.Errorf("pull after the failures were forgotten: %v", err)
	}
}

// shelf is the image list of a Collector.
type shelf struct {
	images  []*cri.Image
	removed []string
}

func (s *shelf) ListImages(context.Context) ([]*cri.Image, error) { return s.images, nil }
func (s *shelf) RemoveImage(_ context.Context, id string) error {
	s.removed = append(s.removed, id)
	return nil
}

func TestCollect(t *testing.T) {
	s := &shelf{images: []*cri.Image{
		{Id: "used", Size: 10}, {Id: "pinned", Size: 10, Pinned: true}, {Id: "byname", RepoTags: []string{"x:1"}, Size: 10},
		{Id: "old", Size: 6}, {Id: "older", Size: 6},
	}}
	inUse := map[string]bool{"used": true, "x:1": true, "old": true, "older": true}
	available := uint64(50)
	var complaints []string
	c := &Collector{
		Runtime: s,
		InUse:   func(context.Context) (map[string]bool, error) { return inUse, nil },
		Disk:    func(context.Context) (uint64, uint64, error) { return 100, available, nil },
		Failed:  func(reason, _ string) { complaints = append(complaints, reason) },
	}
	now := metav1.Now().Time
	at := func(minutes int) {
		t.Helper()
		if err := c.Collect(t.Context(), now.Add(time.Duration(minutes)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	at(0)
	delete(inUse, "older")
	at(5)
	delete(inUse, "old")
	at(10)
	if len(s.removed) > 0 {
		t.Errorf("removed %v from a disk that is half empty", s.removed)
	}
	available = 15
	at(15)
	if diff := cmp.Diff([]string{"older"}, s.removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	available = 0
	at(20)
	if diff := cmp.Diff([]string{"FreeDiskSpaceFailed"}, complaints); diff != "" {
		t.Errorf("complaints (-want +got):\n%s", diff)
	}
}
