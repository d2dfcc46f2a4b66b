package images

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// manySecrets is how many secrets a record may have before others are no longer added for having been
// found to be equal.
const manySecrets = 100

// access remembers with which credentials images were pulled, and decides whether a pod may use one that
// is on the node, or has to pull it again to show that it could.
type access struct {
	Verification
	records

	mu      sync.Mutex
	running map[string]int // pulls under way, by the image's name as given
}

// begin notes that an image is about to be pulled. If it succeeds, end, abandon or completed must follow.
// Other pods do not wait for the disk: the note of a running pull is not removed, whoever made it.
func (a *access) begin(image string) error {
	a.mu.Lock()
	a.running[image]++
	a.mu.Unlock()
	if err := a.writeIntent(image); err != nil {
		a.abandon(image)
		return fmt.Errorf("failed to record image pull intent: %w", err)
	}
	return nil
}

// end takes back the note of a pull that came to nothing.
func (a *access) end(image string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.finish(image)
}

// abandon ends the wait for a pull whose outcome is not known. The note of it stays.
func (a *access) abandon(image string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running[image]--; a.running[image] <= 0 {
		delete(a.running, image)
	}
}

// completed records that the image was pulled with the secret, or by anybody when it is nil.
func (a *access) completed(image Name, ref string, with *kubeletconfig.ImagePullSecret) {
	creds := &kubeletconfig.ImagePullCredentials{NodePodsAccessible: with == nil}
	if with != nil {
		creds.KubernetesSecrets = []kubeletconfig.ImagePullSecret{*with}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.record(image, ref, creds); err != nil {
		// The note of the pull stays, so that the image still counts as pulled by the kubelet.
		slog.Error("image pull not recorded", "image", image.Given, "error", err)
		return
	}
	a.finish(image.Given)
}

// finish ends a pull; a.mu must be held.
func (a *access) finish(image string) {
	if a.running[image] > 1 {
		a.running[image]--
		return
	}
	if err := a.removeIntent(image); err != nil {
		slog.Error("note of an image pull not removed", "image", image, "error", err)
		return
	}
	delete(a.running, image)
}

// record adds credentials, or none when it is not known with which the image was pulled; a.mu must be held.
func (a *access) record(image Name, ref string, creds *kubeletconfig.ImagePullCredentials) error {
	r, err := a.get(ref)
	if err != nil {
		slog.Warn("record of an image pull not read, begun anew", "image", image.Given, "error", err)
	}
	if err != nil || r == nil {
		r = &kubeletconfig.ImagePulledRecord{ImageRef: ref}
	} else if creds == nil {
		return nil
	}
	if creds != nil {
		old, known := r.CredentialMapping[image.Repository()]
		merged, changed := merge(old, *creds)
		if known && !changed {
			return nil
		}
		if r.CredentialMapping == nil {
			r.CredentialMapping = map[string]kubeletconfig.ImagePullCredentials{}
		}
		r.CredentialMapping[image.Repository()] = merged
	}
	r.LastUpdatedTime = metav1.Time{Time: time.Now()}
	return a.write(r)
}

// merge adds credentials to those that are known. A secret that changed takes its own place.
func merge(old, add kubeletconfig.ImagePullCredentials) (kubeletconfig.ImagePullCredentials, bool) {
	if old.NodePodsAccessible {
		return old, false
	}
	if add.NodePodsAccessible {
		return add, true
	}
	changed := false
	secrets := slices.Clone(old.KubernetesSecrets)
	for _, s := range add.KubernetesSecrets {
		i := slices.IndexFunc(secrets, func(o kubeletconfig.ImagePullSecret) bool { return sameSecret(o, s) })
		switch {
		case i < 0:
			secrets, changed = append(secrets, s), true
		case secrets[i] != s:
			secrets[i], changed = s, true
		}
	}
	slices.SortFunc(secrets, func(a, b kubeletconfig.ImagePullSecret) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	old.KubernetesSecrets = secrets
	return old, changed
}

func sameSecret(a, b kubeletconfig.ImagePullSecret) bool {
	return a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name
}

// granted says whether a pod with these secrets may use the image with the runtime's reference as it is. What
// cannot be found out is not granted.
func (a *access) granted(image Name, ref string, secrets []kubeletconfig.ImagePullSecret) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	record, err := a.get(ref)
	intended := false
	if err == nil && record == nil {
		intended = a.running[image.Given] > 0
		if !intended {
			intended, err = a.intended(image.Given)
		}
	}
	if err != nil {
		slog.Error("records of image pulls not read", "image", image.Given, "error", err)
		return false
	}
	if !a.required(image, record != nil || intended) {
		return true
	}
	if record == nil {
		return false
	}
	known := record.CredentialMapping[image.Repository()]
	return known.NodePodsAccessible || a.knows(image, ref, known.KubernetesSecrets, secrets)
}

// knows says whether one of the pod's secrets is one that the image was pulled with: the same object, though
// it may have changed since, or another with the same content. What was found is recorded.
func (a *access) knows(image Name, ref string, known, secrets []kubeletconfig.ImagePullSecret) bool {
	for _, own := range secrets {
		for _, k := range known {
			equal := own.CredentialHash != "" && own.CredentialHash == k.CredentialHash
			if !equal && !sameSecret(own, k) {
				continue
			}
			if own != k && len(known) < manySecrets {
				if err := a.record(image, ref, &kubeletconfig.ImagePullCredentials{KubernetesSecrets: []kubeletconfig.ImagePullSecret{own}}); err != nil {
					slog.Error("image pull not recorded", "image", image.Given, "error", err)
				}
			}
			return true
		}
	}
	return false
}

// recover looks what became of the pulls that the end of an earlier run cut off. Images that are there
// were pulled by the kubelet, nobody knows with which credentials. What cannot be settled stays noted.
func (a *access) recover(images []*cri.Image) {
	a.mu.Lock()
	defer a.mu.Unlock()
	intents, err := a.allIntents()
	if err != nil {
		slog.Error("not all notes of image pulls can be read", "error", err)
	}
	if len(intents) == 0 {
		return
	}
	refs := map[string]string{}
	for _, image := range images {
		for _, given := range slices.Concat(image.RepoTags, image.RepoDigests) {
			if name, err := ParseName(given); err == nil {
				refs[name.canonical()] = image.Id
			}
		}
	}
	for _, intent := range intents {
		if err := a.settle(intent, refs); err != nil {
			slog.Error("image pull of an earlier run not recorded", "image", intent, "error", err)
		}
	}
}

// settle makes the note of a pull a record if the image is there; a.mu must be held.
func (a *access) settle(intent string, refs map[string]string) error {
	name, err := ParseName(intent)
	if err != nil {
		return err
	}
	ref, found := refs[name.canonical()]
	if !found {
		return nil
	}
	if err := a.record(name, ref, nil); err != nil {
		return err
	}
	return a.removeIntent(intent)
}

// prune removes the records of images that are gone. Those written since the images were listed stay.
func (a *access) prune(images []*cri.Image, listed time.Time) {
	listed = listed.Truncate(time.Second) // as records have it
	a.mu.Lock()
	defer a.mu.Unlock()
	all, err := a.allPulled()
	if err != nil {
		slog.Error("not all records of image pulls can be read", "error", err)
	}
	for _, r := range all {
		there := slices.ContainsFunc(images, func(i *cri.Image) bool { return i.Id == r.ImageRef })
		if there || !r.LastUpdatedTime.Time.Before(listed) {
			continue
		}
		if err := a.remove(r.ImageRef); err != nil {
			slog.Error("record of an image that is gone not removed", "image", r.ImageRef, "error", err)
		}
	}
}
