package podspec

import (
	"regexp"

	v1 "k8s.io/api/core/v1"
)

// imageReference is the grammar of an image reference: name, tag, digest. The
// name includes the registry, which alone may have upper-case letters and a
// port.
var imageReference = regexp.MustCompile(`^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?/|\[[a-fA-F0-9:]+\](?::[0-9]+)?/)?` +
	`[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*` +
	`(?::([A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?` +
	`(@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?$`)

// imageID is the bare identifier of an image, which is not taken for a name.
var imageID = regexp.MustCompile(`^[a-f0-9]{64}$`)

// setPullPolicy gives a policy that is not there its default. To read a reference takes long beside the other defaults, and there
// is a policy in all that was stored.
func setPullPolicy(field *v1.PullPolicy, image string) {
	if *field == "" {
		*field = pullPolicy(image)
	}
}

// pullPolicy is the default pull policy of an image: Always where the reference
// can move (the tag latest, or neither tag nor digest), else IfNotPresent. What
// is not a reference at all gets IfNotPresent as well.
func pullPolicy(image string) v1.PullPolicy {
	m := imageReference.FindStringSubmatch(image)
	if m == nil || imageID.MatchString(image) {
		return v1.PullIfNotPresent
	}
	tag, digest := m[1], m[2]
	if tag == "latest" || tag == "" && digest == "" {
		return v1.PullAlways
	}
	return v1.PullIfNotPresent
}
