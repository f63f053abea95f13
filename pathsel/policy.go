package pathsel

import (
	"errors"
	"fmt"
	"time"
)

// Class is what a flow needs. The values are those of DESIGN's classes that use paths.
type Class uint8

const (
	Realtime Class = iota
	Interactive
	Bulk
)

// NumClasses is the number of classes.
const NumClasses = 3

var classNames = [NumClasses]string{"realtime", "interactive", "bulk"}

func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// ParseClass reads a class's name.
func ParseClass(s string) (Class, error) {
	for i, name := range classNames {
		if name == s {
			return Class(i), nil
		}
	}
	return 0, fmt.Errorf("class %q, want realtime, interactive or bulk", s)
}

// MarshalText writes the name.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the name.
func (c *Class) UnmarshalText(b []byte) (err error) {
	*c, err = ParseClass(string(b))
	return err
}

// ErrPolicy is wrapped by every error about a policy's values.
var ErrPolicy = errors.New("invalid policy")

// ClassPolicy says how a class chooses.
type ClassPolicy struct {
	// Dwell is how long a choice stands before a merely better path may replace it. It doubles with each move that
	// follows soon after another.
	Dwell time.Duration `json:"dwell"`
	// Hysteresis is the share by which another path must be better: of the score in milliseconds, and for realtime 0.1
	// is 3 points of R.
	Hysteresis float64 `json:"hysteresis"`
	// Margin is the least difference that counts, of the classes whose scores are milliseconds.
	Margin time.Duration `json:"margin"`
	// DelayWeight and LossWeight scale what delay and loss cost.
	DelayWeight float64 `json:"delay_weight"`
	LossWeight  float64 `json:"loss_weight"`
	// RoundTrip counts both directions: for flows whose answers come back on the same path, as direct ones do.
	RoundTrip bool `json:"round_trip"`
	// LeaveBrownout lets flows leave a path that browned out without waiting for Dwell.
	LeaveBrownout bool `json:"leave_brownout"`
}

// Policy says how all classes choose. The zero value is not useful; take [DefaultPolicy].
type Policy struct {
	Classes [NumClasses]ClassPolicy `json:"classes"` // by Class
	// ElephantBytes is after how many bytes without a pause a flow leaves interactive for bulk.
	ElephantBytes int64 `json:"elephant_bytes"`
	// BulkBytes is the transfer whose completion time is bulk's score.
	BulkBytes int64 `json:"bulk_bytes"`
}

// Defaults and limits. DESIGN names 10 %, 10 ms and 10 s.
const (
	DefaultDwell         = 10 * time.Second
	DefaultHysteresis    = 0.1
	DefaultMargin        = 10 * time.Millisecond
	DefaultElephantBytes = 256 << 10
	DefaultBulkBytes     = 4 << 20

	MaxDwell      = time.Hour
	MaxHysteresis = 1.0
	MaxMargin     = time.Second
	MaxWeight     = 100.0
	MinBytes      = 16 << 10
	MaxBytes      = 1 << 40
)

// DefaultPolicy returns what applies without any configuration.
func DefaultPolicy() Policy {
	p := Policy{ElephantBytes: DefaultElephantBytes, BulkBytes: DefaultBulkBytes}
	for c := range p.Classes {
		p.Classes[c] = ClassPolicy{
			Dwell: DefaultDwell, Hysteresis: DefaultHysteresis, Margin: DefaultMargin,
			DelayWeight: 1, LossWeight: 1, RoundTrip: true, LeaveBrownout: true,
		}
	}
	p.Classes[Interactive].LossWeight = 10 // packets of an exchange, each of which may cost a round trip
	p.Classes[Bulk].LossWeight = 2
	p.Classes[Bulk].RoundTrip, p.Classes[Bulk].LeaveBrownout = false, false
	return p
}

// Validate reports the first value outside its range; the error wraps ErrPolicy.
func (p *Policy) Validate() error {
	for i := range p.Classes {
		c, class := &p.Classes[i], Class(i)
		switch {
		case c.Dwell < 0 || c.Dwell > MaxDwell:
			return fmt.Errorf("%w: %s: dwell %v outside 0s to %v", ErrPolicy, class, c.Dwell, MaxDwell)
		case !(c.Hysteresis >= 0 && c.Hysteresis <= MaxHysteresis):
			return fmt.Errorf("%w: %s: hysteresis %v outside 0 to %v", ErrPolicy, class, c.Hysteresis, MaxHysteresis)
		case c.Margin < 0 || c.Margin > MaxMargin:
			return fmt.Errorf("%w: %s: margin %v outside 0s to %v", ErrPolicy, class, c.Margin, MaxMargin)
		case !(c.DelayWeight >= 0 && c.DelayWeight <= MaxWeight):
			return fmt.Errorf("%w: %s: delay weight %v outside 0 to %v", ErrPolicy, class, c.DelayWeight, MaxWeight)
		case !(c.LossWeight >= 0 && c.LossWeight <= MaxWeight):
			return fmt.Errorf("%w: %s: loss weight %v outside 0 to %v", ErrPolicy, class, c.LossWeight, MaxWeight)
		}
	}
	if p.ElephantBytes < MinBytes || p.ElephantBytes > MaxBytes {
		return fmt.Errorf("%w: elephant %d bytes outside %d to %d", ErrPolicy, p.ElephantBytes, MinBytes, int64(MaxBytes))
	}
	if p.BulkBytes < MinBytes || p.BulkBytes > MaxBytes {
		return fmt.Errorf("%w: bulk transfer of %d bytes outside %d to %d", ErrPolicy, p.BulkBytes, MinBytes, int64(MaxBytes))
	}
	return nil
}
