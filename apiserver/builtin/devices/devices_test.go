package devices

import (
	"encoding/json"
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// FuzzValidate: whatever a client sends is judged, and judged alike after it was defaulted again.
func FuzzValidate(f *testing.F) {
	f.Add(`{"spec":{"devices":{"requests":[{"name":"a","exactly":{"deviceClassName":"c","selectors":[{"cel":{"expression":"device.driver == 'x'"}}]}}],"constraints":[{"requests":["a"],"matchAttribute":"a/b"}]}}}`)
	f.Add(`{"spec":{"driver":"d","pool":{"name":"p/q"},"devices":[{"name":"d","allowMultipleAllocations":true,"capacity":{"a":{"value":"10","requestPolicy":{"default":"1","validRange":{"min":"1","max":"7","step":"0"}}}}}]}}`)
	f.Add(`{"status":{"allocation":{"devices":{"results":[{"request":"a/b","driver":"d","pool":"p","device":"x","shareID":"y"}]}},"reservedFor":[{}],"devices":[{"data":[1],"networkData":{"ips":["x"]}}]}}`)
	f.Add(`{"spec":{"devices":[{"name":"d","attributes":{"a":{"version":"1.2.3-é"}},"taints":[{}],"consumesCounters":[{"counterSet":"s"}]}],"sharedCounters":[{"name":"s","counters":{"x":{"value":"1e1000"}}}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var c resourcev1.ResourceClaim
		if json.Unmarshal([]byte(text), &c) == nil {
			defaultClaim(&c)
			first := validateClaim(&c, nil).ToAggregate()
			defaultClaim(&c)
			if again := validateClaim(&c, nil).ToAggregate(); (first == nil) != (again == nil) {
				t.Errorf("claim is judged %v, then %v", first, again)
			}
			old := c.DeepCopy()
			old.Status = resourcev1.ResourceClaimStatus{}
			validateClaimStatus(&c, old)
			prepareClaimStatus(&c, old)
		}
		var s resourcev1.ResourceSlice
		if json.Unmarshal([]byte(text), &s) == nil {
			defaultSlice(&s)
			prepareSlice(&s, nil)
			validateSlice(&s, s.DeepCopy())
		}
	})
}

// TestStepOfNothing: kube-apiserver 1.36.3 divides by it, panics and ends the connection.
func TestStepOfNothing(t *testing.T) {
	quantity := func(s string) *resource.Quantity { q := resource.MustParse(s); return &q }
	c := resourcev1.DeviceCapacity{Value: *quantity("10"), RequestPolicy: &resourcev1.CapacityRequestPolicy{
		Default: quantity("1"), ValidRange: &resourcev1.CapacityRequestPolicyRange{Min: quantity("1"), Step: quantity("0")},
	}}
	errs := validateCapacity(c, true, nil)
	if len(errs) != 1 || !strings.Contains(errs[0].Detail, "is not a multiple of a given step (0)") {
		t.Errorf("got %v", errs)
	}
}
