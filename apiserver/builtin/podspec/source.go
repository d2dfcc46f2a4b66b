package podspec

import (
	"cmp"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateVolumeSource checks the source of a volume outside of a pod. at is
// where the source is.
func ValidateVolumeSource(s *v1.VolumeSource, at *field.Path) field.ErrorList {
	v := new(validator)
	for _, t := range volumeTypes {
		if t.present(s) {
			t.check(v, s, at.Child(cmp.Or(t.at, t.name)))
		}
	}
	return v.errs
}
