// The slots of a run on a clock.

const STEPS = [1, 2, 3, 6, 12, 24, 48, 96, 168];
const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** Names slots: by the time at which they begin where the run has dates, else by their numbers. */
export class Clock {
  /** `times` are the beginnings of the slots, ISO 8601 with the offset of their place, or null. */
  constructor(slots, hours, times) {
    this.slots = slots;
    this.hours = hours;
    this.times = times;
  }

  /** The clock of some of the slots. */
  cut(first, slots) {
    return new Clock(slots, this.hours, this.times && this.times.slice(first, first + slots));
  }

  /** Name a slot in full. */
  name(slot) {
    if (!this.times) return this.hours === 1 ? `Hour ${slot + 1}` : `Slot ${slot + 1}`;
    return `${this.nameBegin(slot)}–${this.showTime(slot + 1)}`;
  }

  /** Name the beginning of a slot. */
  nameBegin(slot) {
    return this.times ? `${nameDate(this.times[slot])}, ${this.showTime(slot)}` : this.name(slot);
  }

  showTime(slot) {
    if (slot < this.times.length) return this.times[slot].slice(11, 16);
    const end = this.minutes(slot - 1) + Math.round(60 * this.hours);
    return `${String(Math.floor(end / 60) % 24).padStart(2, "0")}:${String(end % 60).padStart(2, "0")}`;
  }

  /** The minutes since midnight at which a slot begins. */
  minutes(slot) {
    if (!this.times) return Math.round(60 * this.hours * slot);
    const [hour, minute] = this.times[slot].slice(11, 16).split(":");
    return 60 * Number(hour) + Number(minute);
  }

  /** The slots between two that get a mark on an axis with room for `most` of them. */
  mark(first, last, most) {
    const span = (last - first) * this.hours;
    const step = STEPS.find((each) => span / each <= most) ?? STEPS.at(-1);
    const end = this.times ? last - 1 : last;
    const marks = [];
    for (let slot = first; slot <= end; slot++)
      if (this.minutes(slot) % (60 * (this.times ? Math.min(step, 24) : step)) === 0) marks.push(slot);
    return marks.filter((_, index) => index % Math.max(1, this.times ? step / 24 : 1) === 0);
  }

  /** Write a mark: the time, or the date at midnight where an axis is longer than a day. */
  label(slot, isLong) {
    if (!this.times) return `${Math.round(10 * this.hours * slot) / 10} h`;
    return isLong && this.minutes(slot) === 0 ? nameDate(this.times[slot]) : this.times[slot].slice(11, 16);
  }
}

/** Write the date of a time: Thu 24 Mar. */
export function nameDate(iso) {
  const [year, month, day] = iso.slice(0, 10).split("-").map(Number);
  return `${DAYS[new Date(Date.UTC(year, month - 1, day)).getUTCDay()]} ${day} ${MONTHS[month - 1]}`;
}
