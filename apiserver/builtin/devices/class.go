package devices

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func deviceClasses() *resource.Resource {
	type class = resourcev1.DeviceClass
	return resource.Define[resourcev1.DeviceClassList](resource.Definition[class]{
		Group: group, Version: "v1", Kind: "DeviceClass", Plural: "deviceclasses", Older: []string{"v1beta2"},
		AnswersDeleted: true,
		ClusterScoped:  true,
		Name:           className,
		Validate:       validateClass,
		Generation:     func(c, old *class) bool { return !equality.Semantic.DeepEqual(c.Spec, old.Spec) },
		Columns:        []resource.Column[*class]{resource.NameColumn[*class](), resource.AgeColumn[*class]()},
	})
}

// className lets any prefix pass: the name that is made of it is judged.
func className(name string, prefix bool) []string {
	if prefix {
		return nil
	}
	return content.IsDNS1123Subdomain(name)
}

func validateClass(c, old *resourcev1.DeviceClass) field.ErrorList {
	at := field.NewPath("spec")
	sameSelectors := old != nil && equality.Semantic.DeepEqual(c.Spec.Selectors, old.Spec.Selectors)
	sameConfig := old != nil && equality.Semantic.DeepEqual(c.Spec.Config, old.Spec.Config)
	errs := validateSelectors(c.Spec.Selectors, at.Child("selectors"), sameSelectors)
	errs = append(errs, each(c.Spec.Config, resourcev1.DeviceConfigMaxSize, at.Child("config"), func(config *resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
		return validateConfiguration(&config.DeviceConfiguration, at, sameConfig)
	})...)
	if name := c.Spec.ExtendedResourceName; name != nil && !podspec.IsExtended(corev1.ResourceName(*name)) {
		errs = append(errs, field.Invalid(at.Child("extendedResourceName"), *name, "must be a valid extended resource name"))
	}
	return errs
}
